package sshcfg

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func example() Stanza {
	return Stanza{
		Alias: "a", HostName: "10.77.0.50", User: "agent", Port: 2222,
		Identities: []string{"/home/u/.local/state/aivm/id_ed25519", "/home/u/my keys/100%/id"},
		KnownHosts: "/home/u/.local/state/aivm/a/known_hosts", HostKeyAlias: "aivm-a",
	}
}

func TestRenderGolden(t *testing.T) {
	got, err := Render(example())
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "stanza.conf", got)
}

func TestRenderAndBack(t *testing.T) {
	paths := []string{
		"/k", "/with space/k", "/100%/k", "/%h/%%d", "/tab-free/#hash", "/it's/k", "/ü/ключ", "/a=b/c;d/$HOME/(x)", "/two  spaces", "/no\xffutf8", "/wide\u3000",
	}
	for _, p := range paths {
		want := example()
		want.Identities, want.KnownHosts = []string{p, "/second"}, p
		text, err := Render(want)
		if err != nil {
			t.Errorf("%q: %v", p, err)
			continue
		}
		got, err := ParseEntry(text)
		if err != nil {
			t.Errorf("%q: %v", p, err)
			continue
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%q (-want +got):\n%s", p, d)
		}
		// ssh reads the same path: it prints known hosts files expanded.
		file := t.TempDir() + "/c"
		write(t, file, string(text), 0o600)
		if g := sshG(t, file, "a"); !strings.Contains(g, "\nuserknownhostsfile "+p+"\n") {
			t.Errorf("%q: ssh reads another path:\n%s", p, g)
		}
	}
}

func TestRenderRefuses(t *testing.T) {
	for name, change := range map[string]func(*Stanza){
		"alias with capital":      func(s *Stanza) { s.Alias = "A" },
		"alias like an option":    func(s *Stanza) { s.Alias = "-oProxyCommand=x" },
		"alias with pattern":      func(s *Stanza) { s.Alias = "a*" },
		"alias with line break":   func(s *Stanza) { s.Alias = "a\nHost b" },
		"long alias":              func(s *Stanza) { s.Alias = strings.Repeat("a", 64) },
		"empty host":              func(s *Stanza) { s.HostName = "" },
		"host with token":         func(s *Stanza) { s.HostName = "%h" },
		"host like an option":     func(s *Stanza) { s.HostName = "-x" },
		"user with line break":    func(s *Stanza) { s.User = "a\r\nProxyCommand x" },
		"user with space":         func(s *Stanza) { s.User = "a b" },
		"port 0":                  func(s *Stanza) { s.Port = 0 },
		"port 65536":              func(s *Stanza) { s.Port = 65536 },
		"no key":                  func(s *Stanza) { s.Identities = nil },
		"relative key":            func(s *Stanza) { s.Identities = []string{"k"} },
		"key below tilde":         func(s *Stanza) { s.Identities = []string{"~/k"} },
		"key with line break":     func(s *Stanza) { s.Identities = []string{"/k\nHost b"} },
		"key with CR":             func(s *Stanza) { s.Identities = []string{"/k\r"} },
		"key with NUL":            func(s *Stanza) { s.Identities = []string{"/k\x00"} },
		"key with quote":          func(s *Stanza) { s.Identities = []string{`/k"`} },
		"key with backslash":      func(s *Stanza) { s.Identities = []string{`/k\`} },
		"key with a last space":   func(s *Stanza) { s.Identities = []string{"/k "} },
		"key with environment":    func(s *Stanza) { s.Identities = []string{"/${HOME}/k"} },
		"known hosts environment": func(s *Stanza) { s.KnownHosts = "/${HOME}/k" },
		"host key alias wildcard": func(s *Stanza) { s.HostKeyAlias = "*" },
		"host key alias list":     func(s *Stanza) { s.HostKeyAlias = "a,b" },
		"host key alias marker":   func(s *Stanza) { s.HostKeyAlias = "@cert-authority" },
	} {
		s := example()
		change(&s)
		if out, err := Render(s); err == nil {
			t.Errorf("%s: accepted:\n%s", name, out)
		}
	}
}

func TestParseEntryRefuses(t *testing.T) {
	for _, s := range []string{
		"", "Host *\n", "Host a b\n", "Host a\nHost b\n", "Host a\n  Port x\n", "Host A\n", "Match all\n", "\x00",
		"Host a\n  Port 22 23\n", "Host a\n  User 'b'\n", "Host a\n  Include /dev/zero\n", "Include /dev/zero\nHost a\n",
	} {
		if got, err := ParseEntry([]byte(s)); err == nil {
			t.Errorf("%q: %+v", s, got)
		}
	}
}

// readBack names each value that differs.
func TestReadBack(t *testing.T) {
	want := example()
	text, err := Render(want)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "ssh", "a.conf")
	if err := writeEntry(path, text, want); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, text) {
		t.Errorf("%v\n%s", err, got)
	}
	for option, change := range map[string]func(string) string{
		"Host is b":                       func(s string) string { return strings.Replace(s, "Host a\n", "Host b\n", 1) },
		"HostName is 10.0.0.1":            func(s string) string { return strings.Replace(s, want.HostName, "10.0.0.1", 1) },
		"User is root":                    func(s string) string { return strings.Replace(s, "agent", "root", 1) },
		"Port is 22,":                     func(s string) string { return strings.Replace(s, "2222", "22", 1) },
		"IdentityFile is ":                func(s string) string { return s + "    IdentityFile /k\n" },
		"UserKnownHostsFile is /dev/null": func(s string) string { return strings.Replace(s, want.KnownHosts, "/dev/null", 1) },
		"HostKeyAlias is x":               func(s string) string { return strings.Replace(s, "aivm-a", "x", 1) },
		"StrictHostKeyChecking is no, not yes": func(s string) string {
			return strings.Replace(s, "StrictHostKeyChecking yes", "StrictHostKeyChecking no", 1)
		},
		"ForwardAgent is yes no": func(s string) string {
			return strings.Replace(s, "    HostName", "    ForwardAgent yes\n    HostName", 1)
		},
		"ProxyCommand is , not none":        func(s string) string { return strings.Replace(s, "    ProxyCommand none\n", "", 1) },
		"not a file written by":             func(s string) string { return s[:len(s)/2] + "\nMatch exec true\n" },
		"it does not have exactly one Host": func(string) string { return "" },
	} {
		write(t, path, change(string(text)), 0o600)
		if err := readBack(path, want); err == nil || !strings.Contains(err.Error(), option) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", option, err)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := readBack(path, want); err == nil {
		t.Error("a missing file is accepted")
	}
}

func FuzzRender(f *testing.F) {
	f.Add("a", "10.0.0.1", "agent", "/k", "/kh", "x")
	f.Add("a", "h", "u", "/a b%", "/k#h", "x.y")
	f.Fuzz(func(t *testing.T, alias, host, user, key, kh, hka string) {
		want := Stanza{Alias: alias, HostName: host, User: user, Port: 22, Identities: []string{key}, KnownHosts: kh, HostKeyAlias: hka}
		text, err := Render(want)
		if err != nil {
			return
		}
		if n := bytes.Count(text, []byte("\n")); n != len(pinned)+8 {
			t.Fatalf("%d lines:\n%s", n, text)
		}
		got, err := ParseEntry(text)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatal(d)
		}
	})
}
