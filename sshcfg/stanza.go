package sshcfg

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/kevinburke/ssh_config"

	"aivm.dev/aivm/internal/ui"
)

// Stanza holds the values of a VM's "Host" block.
type Stanza struct {
	Alias        string
	HostName     string // the guest's address
	User         string
	Port         int
	Identities   []string // absolute paths of client keys, in the order to try
	KnownHosts   string   // absolute path
	HostKeyAlias string   // the name of the pinned key in KnownHosts
}

// pinned lists the options that are the same for all VMs. Each disables something that a
// user's "Host *" or the system's file could add, or fixes how to log in. RequestTTY and
// RemoteCommand are left out because editors run their own command over the alias and fail
// with either (vscode-remote-release issue 10412). ConnectTimeout has the default of
// Remote-SSH, so that it does not shorten its timeout.
//
// Options that came after OpenSSH 8.7 are left out, since an older ssh refuses the complete
// file because of one; IgnoreUnknown would replace the user's own. A list that begins with
// "-" is OpenSSH's default list of that release without one that is in none of them: there
// is no other way to write "the default". With BindAddress, ssh ignores BindInterface, which
// has no value that means "none".
var pinned = [][2]string{
	{"AddressFamily", "inet"},
	{"BindAddress", "0.0.0.0"},
	{"Ciphers", "-3des-cbc"},
	{"KexAlgorithms", "-diffie-hellman-group1-sha1"},
	{"MACs", "-hmac-md5"},
	{"PubkeyAcceptedAlgorithms", "-ssh-dss"},
	{"RevokedHostKeys", "none"},
	{"PKCS11Provider", "none"},
	{"ClearAllForwardings", "no"},
	{"ExitOnForwardFailure", "no"},
	{"SessionType", "default"},
	{"StdinNull", "no"},
	{"ForkAfterAuthentication", "no"},
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

// addedPins lists the options of pinned that earlier versions of aivm did not write. An entry
// without them is of such a version, and was not changed by anyone.
var addedPins = []string{
	"AddressFamily", "BindAddress", "Ciphers", "KexAlgorithms", "MACs", "PubkeyAcceptedAlgorithms", "RevokedHostKeys",
	"PKCS11Provider", "ClearAllForwardings", "ExitOnForwardFailure", "SessionType", "StdinNull", "ForkAfterAuthentication",
}

// Render returns the content of a VM's stanza file. It refuses values that ssh would split
// or expand: line breaks, NUL, quotes and backslashes (ssh releases differ), "${", relative
// and "~" paths. A "%" in a path is doubled, since ssh expands tokens there.
func Render(s Stanza) ([]byte, error) {
	opts, err := s.options()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.WriteString("# Written by aivm for one VM; changes made here are overwritten.\n")
	fmt.Fprintf(&b, "Host %s\n", s.Alias)
	for _, kv := range opts {
		fmt.Fprintf(&b, "    %s %s\n", kv[0], kv[1])
	}
	return b.Bytes(), nil
}

// options returns the options of the block, with quoted values, in their order.
func (s Stanza) options() ([][2]string, error) {
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
		// With IdentitiesOnly but no IdentityFile, ssh would offer the user's default keys.
		return nil, ui.Refused("there is no ssh key for %q", s.Alias)
	}
	out := [][2]string{{"HostName", s.HostName}, {"Port", strconv.Itoa(s.Port)}, {"User", s.User}}
	for _, id := range s.Identities {
		q, err := quotePath("IdentityFile", id)
		if err != nil {
			return nil, err
		}
		out = append(out, [2]string{"IdentityFile", q})
	}
	kh, err := quotePath("UserKnownHostsFile", s.KnownHosts)
	if err != nil {
		return nil, err
	}
	out = append(out, [2]string{"UserKnownHostsFile", kh}, [2]string{"HostKeyAlias", s.HostKeyAlias})
	return append(out, pinned...), nil
}

// ParseEntry parses a file written by Render. It uses github.com/kevinburke/ssh_config and
// this package's scanner, which must agree. A file that does not have exactly one Host with
// one plain name is refused: it was changed.
func ParseEntry(data []byte) (Stanza, error) {
	s, _, err := parseEntry(data)
	return s, err
}

// parseEntry does the work of ParseEntry and also returns the library's parse result.
func parseEntry(data []byte) (Stanza, *ssh_config.Config, error) {
	bad := func(format string, args ...any) (Stanza, *ssh_config.Config, error) {
		return Stanza{}, nil, ui.Refused("it is not a file written by aivm: "+format, args...)
	}
	lines := splitLines(data)
	for _, x := range lines {
		// The library would read the included file, wherever that is.
		if kw, _ := parseLine(x.text); kw == "include" {
			return bad("it has an Include")
		}
	}
	cfg, err := ssh_config.DecodeBytes(data)
	if err != nil {
		return bad("%w", err)
	}
	var s Stanza
	// Hosts[0] is implicit: the library uses it for lines before the first Host.
	if len(cfg.Hosts) != 2 || len(cfg.Hosts[1].Patterns) != 1 {
		return bad("it does not have exactly one Host")
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
			return bad("%s does not have exactly one value", kv.Key)
		}
		v := args[0]
		// The library takes a # in quotes for the start of a comment, only handles UTF-8,
		// and trims all Unicode white space; such values are not compared.
		if kv.Comment == "" && utf8.ValidString(v) && kv.Value != strings.TrimRightFunc(v, unicode.IsSpace) {
			return bad("%s is ambiguous: %q or %q", kv.Key, kv.Value, v)
		}
		switch strings.ToLower(kv.Key) {
		case "hostname":
			s.HostName = v
		case "user":
			s.User = v
		case "port":
			if s.Port, err = strconv.Atoi(v); err != nil {
				return bad("invalid port %q", v)
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

// writeEntry writes a VM's stanza file and reads it back, to detect a write that a faulty
// disk or file system did not store.
func writeEntry(path string, text []byte, want Stanza) error {
	if err := replaceOwn(path, text); err != nil {
		return err
	}
	return readBack(path, want)
}

// readBack returns an error unless the file contains want and the pinned options.
func readBack(path string, want Stanza) error {
	f, err := readFile(path)
	if err != nil {
		return ui.Failed("reading %s back: %w", path, err)
	}
	ms, err := differences(path, f.Data, want)
	if err != nil {
		return ui.Failed("%s does not contain what was written to it: %w", path, err)
	}
	if len(ms) > 0 {
		return ui.Failed("%s does not contain what was written to it: %s is %s, not %s", path, ms[0].Option, ms[0].Got, ms[0].Want).
			Hint(ui.Remark("if another process changed it, run the command again"))
	}
	return nil
}

// Differences returns the options whose value in the alias's stanza file, if it exists, is
// not that of want. Options that earlier versions of aivm did not write may be missing. It is an error if the file cannot be read, or is not one that aivm
// wrote.
func (f Facts) Differences(want Stanza) ([]Mismatch, error) {
	own := f.Own.Value
	if f.Own.Err != nil || !own.Exists {
		return nil, f.Own.Err
	}
	ms, err := differences(own.Path, own.Data, want)
	if err != nil {
		return nil, ui.Failed("%s: %w", own.Path, err)
	}
	return ms, nil
}

// differences compares the content of a stanza file with want and the pinned options. Those
// of addedPins may be missing.
func differences(path string, data []byte, want Stanza) (ms []Mismatch, err error) {
	got, cfg, err := parseEntry(data)
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
		// All values are checked: ssh uses the first one, whatever comes later.
		all, err := cfg.GetAll(got.Alias, kv[0])
		if err != nil {
			return nil, err
		}
		if len(all) == 0 && slices.Contains(addedPins, kv[0]) {
			continue
		}
		if len(all) != 1 || all[0] != kv[1] {
			ms = append(ms, Mismatch{Option: kv[0], Got: strings.Join(all, " "), Want: kv[1], File: path})
		}
	}
	return ms, nil
}

// checkWord accepts letters, digits and the characters in more. A hyphen is not accepted at
// the start ("-oProxyCommand=...").
func checkWord(what, s, more string) error {
	if s == "" {
		return ui.Refused("ssh %s is empty", what)
	}
	for i, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case strings.IndexByte(more, c) >= 0 && (i > 0 || c != '-'):
		default:
			return ui.Refused("ssh %s %q contains a character that is not allowed", what, s)
		}
	}
	return nil
}

// quotePath returns a path for an option in which ssh expands tokens: % doubled, and quoted.
func quotePath(what, p string) (string, error) {
	if err := checkPath(what, p); err != nil {
		return "", err
	}
	return quoteWord(strings.ReplaceAll(p, "%", "%%")), nil
}

// checkPath refuses paths that cannot be quoted in a way all ssh releases accept.
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
	if strings.HasSuffix(p, " ") { // some parsers trim it even inside quotes
		return ui.Refused("the path %q for %s ends in a space", p, what)
	}
	if strings.Contains(p, "${") {
		return ui.Refused("the path %q for %s contains ${, which ssh would expand", p, what)
	}
	return nil
}

// quoteWord puts s in double quotes if ssh would otherwise split or cut it.
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
