package sshcfg

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/kevinburke/ssh_config"

	"aivm.dev/aivm/internal/ui"
)

// Stanza is what is wanted for one VM.
type Stanza struct {
	Alias        string
	HostName     string // the guest's address
	User         string
	Port         int
	Identities   []string // absolute paths, in the order to be tried
	KnownHosts   string   // absolute path
	HostKeyAlias string   // the name the pinned key has in KnownHosts
}

// pinned are the options that do not depend on the VM. Each takes away
// something a user's "Host *" (or a system file) could add, or pins the way in.
// RequestTTY and RemoteCommand are absent on purpose: editors run their own
// command over the alias and stumble over either (vscode-remote-release 10412).
// ConnectTimeout equals Remote-SSH's own default, so it shortens nothing there.
var pinned = [][2]string{
	{"IdentitiesOnly", "yes"},
	{"PubkeyAuthentication", "yes"},
	{"PreferredAuthentications", "publickey"},
	{"PasswordAuthentication", "no"},
	{"KbdInteractiveAuthentication", "no"},
	{"HostbasedAuthentication", "no"},
	{"GSSAPIAuthentication", "no"},
	{"AddKeysToAgent", "no"},
	{"HostKeyAlgorithms", "ssh-ed25519"},
	{"GlobalKnownHostsFile", "/dev/null"},
	{"KnownHostsCommand", "none"},
	{"StrictHostKeyChecking", "yes"},
	{"VerifyHostKeyDNS", "no"},
	{"CheckHostIP", "no"},
	{"UpdateHostKeys", "no"},
	{"CanonicalizeHostname", "no"},
	{"ProxyCommand", "none"},
	{"ProxyJump", "none"},
	{"ControlMaster", "no"},
	{"ControlPath", "none"},
	{"ControlPersist", "no"},
	{"ForwardAgent", "no"},
	{"ForwardX11", "no"},
	{"ForwardX11Trusted", "no"},
	{"Tunnel", "no"},
	{"PermitLocalCommand", "no"},
	{"ConnectTimeout", "15"},
	{"ServerAliveInterval", "15"},
	{"ServerAliveCountMax", "4"},
}

// Render writes the file of one VM. It refuses what ssh would split or expand:
// line breaks, NUL, quotes and backslashes (releases differ), "${", relative
// and "~" paths. A "%" in a path is doubled, since ssh expands tokens there.
func Render(s Stanza) ([]byte, error) {
	if err := ValidAlias(s.Alias); err != nil {
		return nil, err
	}
	if err := checkWord("HostName", s.HostName, ".:-_"); err != nil {
		return nil, err
	}
	if err := checkWord("User", s.User, "-_."); err != nil {
		return nil, err
	}
	if s.Port < 1 || s.Port > 65535 {
		return nil, ui.Refused("ssh port %d is not between 1 and 65535", s.Port)
	}
	if err := checkHostKeyAlias(s.HostKeyAlias); err != nil {
		return nil, err
	}
	if len(s.Identities) == 0 {
		// Without one, IdentitiesOnly would offer the user's default keys.
		return nil, ui.Refused("no ssh key for %q", s.Alias)
	}
	var b bytes.Buffer
	line := func(k, v string) { fmt.Fprintf(&b, "    %s %s\n", k, v) }
	b.WriteString("# Written by aivm for one VM; changes made here are overwritten.\n")
	fmt.Fprintf(&b, "Host %s\n", s.Alias)
	line("HostName", s.HostName)
	line("Port", strconv.Itoa(s.Port))
	line("User", s.User)
	for _, id := range s.Identities {
		q, err := quotePath("IdentityFile", id)
		if err != nil {
			return nil, err
		}
		line("IdentityFile", q)
	}
	kh, err := quotePath("UserKnownHostsFile", s.KnownHosts)
	if err != nil {
		return nil, err
	}
	line("UserKnownHostsFile", kh)
	line("HostKeyAlias", s.HostKeyAlias)
	for _, kv := range pinned {
		line(kv[0], kv[1])
	}
	return b.Bytes(), nil
}

// ParseOurs reads a file written by Render, with github.com/kevinburke/ssh_config
// and with our own scanner, which must agree. Anything but exactly one Host with
// one plain name is refused: such a file is not ours any more.
func ParseOurs(data []byte) (Stanza, error) {
	s, _, err := parseOurs(data)
	return s, err
}

func parseOurs(data []byte) (Stanza, *ssh_config.Config, error) {
	bad := func(format string, args ...any) (Stanza, *ssh_config.Config, error) {
		return Stanza{}, nil, ui.Refused("not a stanza written by aivm: "+format, args...)
	}
	lines := splitLines(data)
	for _, x := range lines {
		// The library would read what it names, whatever that is.
		if kw, _ := parseLine(x.text); kw == "include" {
			return bad("it has an Include")
		}
	}
	cfg, err := ssh_config.DecodeBytes(data)
	if err != nil {
		return bad("%w", err)
	}
	var s Stanza
	// Hosts[0] is the library's implicit one, for lines above the first Host.
	if len(cfg.Hosts) != 2 || len(cfg.Hosts[1].Patterns) != 1 {
		return bad("it has not exactly one Host")
	}
	host := cfg.Hosts[1]
	s.Alias = host.Patterns[0].String()
	if err := ValidAlias(s.Alias); err != nil {
		return bad("%w", err)
	}
	for _, n := range host.Nodes {
		kv, ok := n.(*ssh_config.KV)
		if !ok {
			continue
		}
		var args []string
		if n := kv.Pos().Line; n >= 1 && n <= len(lines) {
			_, args = parseLine(lines[n-1].text)
		}
		if len(args) != 1 {
			return bad("%s has not one value", kv.Key)
		}
		v := args[0]
		// The library takes a # in quotes for the start of a comment, knows only
		// UTF-8, and trims every space of Unicode.
		if kv.Comment == "" && utf8.ValidString(v) && kv.Value != strings.TrimRightFunc(v, unicode.IsSpace) {
			return bad("%s can be read as %q and as %q", kv.Key, kv.Value, v)
		}
		switch strings.ToLower(kv.Key) {
		case "hostname":
			s.HostName = v
		case "user":
			s.User = v
		case "port":
			if s.Port, err = strconv.Atoi(v); err != nil {
				return bad("port %q", v)
			}
		case "identityfile":
			s.Identities = append(s.Identities, strings.ReplaceAll(v, "%%", "%"))
		case "userknownhostsfile":
			s.KnownHosts = strings.ReplaceAll(v, "%%", "%")
		case "hostkeyalias":
			s.HostKeyAlias = v
		}
	}
	return s, cfg, nil
}

// writeEntry writes the file of one VM and reads it back: what ssh is told must
// be what was meant, also on a disk or a file system that lies.
func writeEntry(path string, text []byte, want Stanza) error {
	if err := replaceOwn(path, text); err != nil {
		return err
	}
	return readBack(path, want)
}

// readBack fails if the file does not say want and the pinned options.
func readBack(path string, want Stanza) error {
	f, err := readFile(path)
	if err != nil {
		return ui.Failed("reading %s back: %w", path, err)
	}
	ms, err := departures(path, f.Data, want)
	if err != nil {
		return ui.Failed("%s does not say what was written into it: %w", path, err)
	}
	if len(ms) > 0 {
		return ui.Failed("%s does not say what was written into it: %s is %s, not %s", path, ms[0].Option, ms[0].Got, ms[0].Want).
			Hint(ui.Remark("if another aivm changed it meanwhile, run the command again"))
	}
	return nil
}

// Departures are the options in which our file of the alias, if there is one,
// says something else than want. It is an error if it is no entry of ours any
// more, or cannot be read.
func (f Facts) Departures(want Stanza) ([]Mismatch, error) {
	own := f.Own.Value
	if f.Own.Err != nil || !own.Exists {
		return nil, f.Own.Err
	}
	ms, err := departures(own.Path, own.Data, want)
	if err != nil {
		return nil, ui.Failed("%s: %w", own.Path, err)
	}
	return ms, nil
}

// departures compares what a file says with want and the pinned options.
func departures(path string, data []byte, want Stanza) (ms []Mismatch, err error) {
	got, cfg, err := parseOurs(data)
	if err != nil {
		return nil, err
	}
	for _, v := range []struct{ option, got, want string }{
		{"Host", got.Alias, want.Alias},
		{"HostName", got.HostName, want.HostName},
		{"User", got.User, want.User},
		{"Port", strconv.Itoa(got.Port), strconv.Itoa(want.Port)},
		{"IdentityFile", strings.Join(got.Identities, " "), strings.Join(want.Identities, " ")},
		{"UserKnownHostsFile", got.KnownHosts, want.KnownHosts},
		{"HostKeyAlias", got.HostKeyAlias, want.HostKeyAlias},
	} {
		if v.got != v.want {
			ms = append(ms, Mismatch{Option: v.option, Got: v.got, Want: v.want, File: path})
		}
	}
	for _, kv := range pinned {
		// All of them: ssh takes the first, whatever comes later.
		all, err := cfg.GetAll(got.Alias, kv[0])
		if err != nil {
			return nil, err
		}
		if len(all) != 1 || all[0] != kv[1] {
			ms = append(ms, Mismatch{Option: kv[0], Got: strings.Join(all, " "), Want: kv[1], File: path})
		}
	}
	return ms, nil
}

// checkWord accepts letters, digits and the given further characters, not at
// the start for those that are no letters ("-oProxyCommand=...").
func checkWord(what, s, more string) error {
	if s == "" {
		return ui.Refused("ssh %s is empty", what)
	}
	for i, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case strings.IndexByte(more, c) >= 0 && (i > 0 || c != '-'):
		default:
			return ui.Refused("ssh %s %q holds a character that is not allowed", what, s)
		}
	}
	return nil
}

// quotePath writes a path for an option in which ssh expands tokens.
func quotePath(what, p string) (string, error) {
	if err := checkPath(what, p); err != nil {
		return "", err
	}
	return quoteWord(strings.ReplaceAll(p, "%", "%%")), nil
}

// checkPath refuses paths that no quoting carries through every ssh release.
func checkPath(what, p string) error {
	if !filepath.IsAbs(p) {
		return ui.Refused("the path %q for %s is not absolute", p, what)
	}
	for _, c := range []byte(p) {
		if c < 0x20 || c == 0x7f || c == '"' || c == '\\' {
			return ui.Refused("the path %q for %s cannot be written into an ssh configuration", p, what).
				Hint(ui.Remark("use a path without quotes, backslashes and control characters"))
		}
	}
	if strings.HasSuffix(p, " ") { // parsers trim it, quotes or not
		return ui.Refused("the path %q for %s ends in a space", p, what)
	}
	if strings.Contains(p, "${") {
		return ui.Refused("the path %q for %s holds ${, which ssh would expand", p, what)
	}
	return nil
}

// quoteWord puts quotes round what ssh would otherwise split or cut.
func quoteWord(s string) string {
	for _, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c >= 0x80:
		case strings.IndexByte("@%+:,./_-*", c) >= 0:
		default:
			return `"` + s + `"`
		}
	}
	return s
}
