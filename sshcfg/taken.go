package sshcfg

import (
	"net/netip"
	"os"
	"slices"
	"strings"

	"aivm.dev/aivm/internal/ui"
)

// ownNames mean this machine, or nobody, on every machine.
var ownNames = []string{"localhost", "ip6-localhost", "ip6-loopback", "ip6-localnet", "ip6-mcastprefix", "ip6-allnodes", "ip6-allrouters", "broadcasthost"}

// Taken returns an error that says what else "ssh ALIAS" would mean, nil if
// nothing. A name is this machine's own, a VM of another store has it, or a Host
// or Match line of the user's configuration is about it: one with a pattern that
// matches it and holds more than wildcards, since "Host *" is about no host. An
// alias that has a file of ours was found free before.
func Taken(l Layout, alias string) error {
	if f, err := readFile(l.ConfPath(alias)); err == nil && f.Exists {
		return nil
	}
	refuse := func(format string, args ...any) error {
		return ui.Refused("VM name %q cannot be an ssh alias: "+format, append([]any{alias}, args...)...).
			Hint(ui.CmdFor("give the VM another name", "aivm vm create NAME"), ui.CmdFor("see what the name means to ssh now", "ssh -G "+alias))
	}
	own, _ := os.Hostname()
	own, _, _ = strings.Cut(strings.ToLower(own), ".")
	hosts, _ := os.ReadFile("/etc/hosts")
	if alias == own || slices.Contains(ownNames, alias) || slices.Contains(ownIn(string(hosts)), alias) {
		return refuse("it is a name of this machine itself")
	}
	var legacy []Clash // blocks of aivm 0.3, which come after our Include: see Plan
	for _, c := range Others(l, alias) {
		if c.Legacy {
			legacy = append(legacy, c)
		}
	}
	for _, d := range l.directives(alias) {
		if slices.ContainsFunc(legacy, func(c Clash) bool { return c.File == d.file && c.Line == d.line }) {
			continue
		}
		for _, patterns := range d.about() {
			if hostApplies(patterns, alias) == yes && slices.ContainsFunc(patterns, func(p string) bool {
				return strings.Trim(p, "*?") != "" && matchPattern(p, alias)
			}) {
				if store := storeOf(d.file, alias); store != "" {
					return storeClash(Clash{File: d.file, Line: d.line, Store: store}, alias)
				}
				return refuse("%s line %d is about it: %s %s", d.file, d.line, map[string]string{"host": "Host", "match": "Match"}[d.keyword], strings.Join(d.args, " "))
			}
		}
	}
	return nil
}

// about returns the lists of patterns by which a line names hosts.
func (d directive) about() [][]string {
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

// ownIn returns the names that a hosts file gives to loopback and the like
// (hosts(5)), in lower case.
func ownIn(hosts string) []string {
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
