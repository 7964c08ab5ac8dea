package sshcfg

import (
	"bytes"
	"crypto/sha256"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// sshLines are the lines from which FuzzOtherHosts builds a user's configuration. They make
// ssh execute and look up nothing, as "Match exec" and canonical names would.
var sshLines = []string{
	"Host x", "Host other *.lan", "Host !a *", "Host *", "Host a?", "Match all", "Match host x", "Match host a,x user root", "Match originalhost a",
	"User u", "  User \"two words\"", "\tPort 2222", "Port=22", "HostName 192.168.1.1", "IdentityFile ~/.ssh/k", "IdentityFile /k%h", "IdentitiesOnly yes",
	"ForwardAgent yes", "RemoteForward 9000 localhost:9000", "LocalForward 1 h:2", "SendEnv FOO BAR*", "SetEnv A=b", "ControlMaster auto", "ControlPath /tmp/c-%C",
	"ProxyJump jump", "ProxyCommand nc %h %p", "UserKnownHostsFile /kh", "StrictHostKeyChecking no", "HostKeyAlias z", "Compression yes", "LogLevel DEBUG",
	"AddKeysToAgent yes", "# comment", "", "   ", "#Host a", "HashKnownHosts yes", "Ciphers +aes128-cbc", "ServerAliveInterval 5",
	beginMarker, endMarker, "# >>> aivm store /o/aivm/ssh >>>", "Include /o/aivm/ssh/*.conf", "# <<< aivm store /o/aivm/ssh <<<", "GlobalKnownHostsFile none", "RequestTTY force", "PermitLocalCommand no", "Host x y z",
}

// FuzzOtherHosts builds a configuration, applies aivm's plan to it, and checks with the real
// ssh that the options of other hosts are unchanged. After that there is nothing to plan,
// and removing the Include restores the file. ssh is run for one file in four.
func FuzzOtherHosts(f *testing.F) {
	at := func(lines ...string) []byte {
		var b []byte
		for _, l := range lines {
			b = append(b, byte(slices.Index(sshLines, l)))
		}
		return b
	}
	f.Add(at("User u", "Host x", "\tPort 2222", "Host *", "ForwardAgent yes"), byte(0))
	f.Add(at("Match host x", "IdentityFile /k%h", "Match all", "SendEnv FOO BAR*", "# comment"), byte(1))
	f.Add(at(beginMarker, "Port=22", endMarker, "Host *", "Host !a *", "ProxyJump jump"), byte(2))
	f.Add(at(endMarker, "Host x", beginMarker), byte(3))
	f.Add([]byte{}, byte(0))
	f.Fuzz(func(t *testing.T, lines []byte, form byte) {
		if len(lines) > 60 {
			return
		}
		eol := "\n"
		if form&1 != 0 {
			eol = "\r\n"
		}
		var sb strings.Builder
		for i, n := range lines {
			sb.WriteString(sshLines[int(n)%len(sshLines)])
			if i+1 < len(lines) || form&2 == 0 {
				sb.WriteString(eol)
			}
		}
		in := sb.String()
		if form&4 != 0 {
			in = "\ufeff" + in
		}
		l := newLayout(t)
		write(t, l.sshConfig(), in, 0o600)
		want := stanzaFor(l, "aivm-vm")
		as, err := Plan(Observe(l, want), want)
		if err != nil {
			return // damaged markers are refused
		}
		hash := sha256.Sum256([]byte(in))
		ask := hash[0]&3 == 0 && form&4 == 0 // ssh does not read a file with a byte order mark
		hosts := []string{"x", "a1", "q.lan"}
		before := map[string]string{}
		for _, h := range hosts {
			if ask {
				before[h] = sshG(t, l.sshConfig(), h)
			}
		}
		do(t, as)
		got := read(t, l.sshConfig())
		if as, err := Plan(Observe(l, want), want); err != nil || len(as) > 0 {
			t.Fatalf("a second plan for %q: %v %v", got, ids(as), err)
		}
		for h, was := range before {
			if now := sshG(t, l.sshConfig(), h); now != was {
				t.Errorf("the options of %s differ with %q, made from %q:\n%s\nbefore:\n%s", h, got, in, now, was)
			}
		}
		if ask && !strings.Contains(sshG(t, l.sshConfig(), "aivm-vm"), "\nhostname 10.77.0.50\n") {
			t.Errorf("the alias is not resolved by %q", got)
		}
		back, err := removeInclude([]byte(got), l.storeIn([]byte(got)))
		if err != nil {
			t.Fatal(err)
		}
		plain, err := removeInclude([]byte(in), l.storeIn([]byte(in)))
		if err != nil || !bytes.Equal(back, plain) {
			t.Errorf("%q became %q and then %q: %v", in, got, back, err)
		}
	})
}

// FuzzScan checks that scanning any configuration ends, even if files include themselves,
// and does not fail.
func FuzzScan(f *testing.F) {
	f.Add("Include c\nHost a\n  RemoteForward 1 h:2\nMatch exec \"x\"\n SendEnv A\n", "Include ~/.ssh/*\n")
	f.Add("Host \"a b\" !a *\nInclude \"x\nHost=a\n\\", "Host a\r\nUser=\"\"\r\n")
	f.Fuzz(func(t *testing.T, in, other string) {
		l := newLayout(t)
		if strings.Contains(in+other, "Include") && strings.ContainsAny(in+other, "~/") && !strings.Contains(in+other, "~/.ssh/*") {
			return // it would read files outside the test's directory
		}
		write(t, l.sshConfig(), in, 0o600)
		write(t, filepath.Join(filepath.Dir(l.sshConfig()), "c"), other, 0o600)
		for _, d := range l.directives("a") {
			if d.keyword == "" || d.line < 1 || d.keyword != strings.ToLower(d.keyword) {
				t.Errorf("%+v", d)
			}
		}
		_ = Others(l, "a")
	})
}

// FuzzKeyFiles checks that reading any content as a key returns a key or an error.
func FuzzKeyFiles(f *testing.F) {
	dir := f.TempDir()
	l := DefaultLayout(dir, noenv)
	k, err := l.LoadHostKey("none")
	if err == nil {
		f.Fatalf("a host key of a VM without one: %+v", k)
	}
	f.Add([]byte("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA9hLkfGPgvPDxSl2p7tBKpUE5e6rhQbLrWvSqrxlZ4P me@x\n"), "#c\n")
	f.Add([]byte("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\n-----END OPENSSH PRIVATE KEY-----\n"), "")
	path := filepath.Join(dir, "k")
	f.Fuzz(func(t *testing.T, key []byte, pub string) {
		for name, b := range map[string][]byte{path: key, path + ".pub": []byte(pub)} {
			if err := os.WriteFile(name, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if id, err := readIdentity(path); err == nil {
			if id.Public == nil {
				t.Fatal("no key and no error")
			}
			if l := authorizedLine(id.Public); strings.ContainsAny(l, "\n\r\x00") {
				t.Errorf("%q has a line break", l)
			}
		}
		if p, _, err := readPublic(path + ".pub"); err == nil && p == nil {
			t.Error("no key and no error")
		}
	})
}
