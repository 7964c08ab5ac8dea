package sshcfg

import (
	"net/netip"
	"os"
	"slices"
	"strings"

	"aivm.dev/aivm/internal/ui"
)

// reservedNames lists host names that mean the local machine or no machine, everywhere.
var reservedNames = []string{"localhost", "ip6-localhost", "ip6-loopback", "ip6-localnet", "ip6-mcastprefix", "ip6-allnodes", "ip6-allrouters", "broadcasthost"}

// Taken returns an error if "ssh ALIAS" already means something else: if the alias is a
// name of the host itself, the alias of a VM in another store, or named by a Host or Match
// line of the user's configuration. A line names it if it has a matching pattern that
// consists of more than wildcards; "Host *" names no host. An alias for which aivm has a
// file was checked earlier and is not checked again.
func Taken(l Layout, alias string) error {
	if f, err := readFile(l.ConfPath(alias)); err == nil && f.Exists {
		return nil
	}
	refuse := func(format string, args ...any) error {
		return ui.Refused("VM name %q cannot be an ssh alias: "+format, append([]any{alias}, args...)...).
			Hint(ui.CmdFor("to give the VM another name", "aivm vm create NAME"), ui.CmdFor("to see what the name means to ssh now", "ssh -G "+alias))
	}
	own, _ := os.Hostname()
	own, _, _ = strings.Cut(strings.ToLower(own), ".")
	hosts, _ := os.ReadFile("/etc/hosts")
	if alias == own || slices.Contains(reservedNames, alias) || slices.Contains(loopbackNames(string(hosts)), alias) {
		return refuse("it is a name of this machine")
	}
	var legacy []Clash // blocks of aivm 0.3, which come after aivm's Include: see Plan
	for _, c := range Others(l, alias) {
		if c.Legacy {
			legacy = append(legacy, c)
		}
	}
	for _, d := range l.directives(alias) {
		if slices.ContainsFunc(legacy, func(c Clash) bool { return c.File == d.file && c.Line == d.line }) {
			continue
		}
		for _, patterns := range d.hostPatterns() {
			if hostApplies(patterns, alias) == yes && slices.ContainsFunc(patterns, func(p string) bool {
				return strings.Trim(p, "*?") != "" && matchPattern(p, alias)
			}) {
				if store := storeOf(d.file, alias); store != "" {
					return storeClash(Clash{File: d.file, Line: d.line, Store: store}, alias)
				}
				return refuse("%s line %d already uses it: %s %s", d.file, d.line, map[string]string{"host": "Host", "match": "Match"}[d.keyword], strings.Join(d.args, " "))
			}
		}
	}
	return nil
}

// hostPatterns returns the pattern lists of a Host line, or of the host criteria of a Match
// line.
func (d directive) hostPatterns() [][]string {
	switch d.keyword {
	case "host":
		return [][]string{d.args}
	case "match":
		var out [][]string
		for i, a := range d.args {
			key, list, ok := strings.Cut(a, "=")
			if !ok && i+1 < len(d.args) {
				list = d.args[i+1]
			}
			if k := strings.ToLower(key); k == "host" || k == "originalhost" {
				out = append(out, strings.Split(list, ","))
			}
		}
		return out
	}
	return nil
}

// loopbackNames returns the names that a hosts file (hosts(5)) gives to loopback,
// multicast and unspecified addresses, in lower case.
func loopbackNames(hosts string) []string {
	var out []string
	for line := range strings.Lines(hosts) {
		line, _, _ = strings.Cut(line, "#")
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		if a, err := netip.ParseAddr(f[0]); err == nil && (a.IsLoopback() || a.IsMulticast() || a.IsUnspecified()) {
			for _, n := range f[1:] {
				out = append(out, strings.ToLower(n))
			}
		}
	}
	return out
}
