package sshcfg

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// verifyIn applies the stanza with this user's configuration and calls Verify with the real
// ssh.
func verifyIn(t *testing.T, user string) (Layout, []Mismatch) {
	t.Helper()
	l := newLayout(t)
	// ssh resolves a relative Include in the passwd home, not in the test's home.
	user += "Host *\nInclude " + filepath.Join(l.Home, ".ssh", "more") + "\n"
	write(t, l.sshConfig(), user, 0o600)
	write(t, filepath.Join(l.Home, ".ssh", "more"), "Host *\n  SendEnv TOKEN_MORE\n", 0o600)
	want := stanzaFor(l, "a")
	apply(t, l, want)
	ms, err := Verify(context.Background(), l, "a", want, nil)
	if err != nil {
		t.Fatal(err)
	}
	return l, ms
}

func TestVerifyFindsAddedOptions(t *testing.T) {
	l, ms := verifyIn(t, `Host x
  RemoteForward 1111 localhost:1
Host *
  User me
  RemoteForward 8080 localhost:80
  RemoteForward 8081 localhost:81
  LocalForward 7000 localhost:70
  DynamicForward 1080
  SendEnv LANG LC_* SECRET_*
  SetEnv TERM=xterm TOKEN=x
  IdentityFile /home/u/.ssh/work
  CertificateFile /home/u/.ssh/work-cert.pub
  RequestTTY force
  RemoteCommand tmux
  ProxyCommand nc %h %p
  ControlMaster auto
  ControlPath /tmp/%C
  ForwardAgent yes
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  GSSAPIAuthentication yes
  KnownHostsCommand /bin/false
Match user agent
  LocalForward 7001 localhost:71
`)
	at := map[string]int{}
	for _, m := range ms {
		if m.File == "" || m.Hint == "" || m.Want != "" && m.Option != "requesttty" && m.Option != "remotecommand" {
			t.Errorf("%+v", m)
		}
		if m.File == l.sshConfig() {
			at[m.Option+" "+m.Got] = m.Line - 3 // aivm's block comes before
		}
	}
	want := map[string]int{
		"remoteforward 8080 [localhost]:80": 5, "remoteforward 8081 [localhost]:81": 6,
		"localforward 7000 [localhost]:70": 7, "localforward 7001 [localhost]:71": 24,
		"dynamicforward 1080": 8, "sendenv SECRET_*": 9, "setenv TOKEN=x": 10,
		"identityfile /home/u/.ssh/work": 11, "certificatefile /home/u/.ssh/work-cert.pub": 12,
		"requesttty force": 13, "remotecommand tmux": 14,
	}
	for k, line := range want {
		if at[k] != line {
			t.Errorf("%s: line %d, want %d", k, at[k], line)
		}
		delete(at, k)
	}
	if len(at) > 0 {
		t.Errorf("too much: %v", at)
	}
	found := false
	for _, m := range ms {
		found = found || m.Got == "TOKEN_MORE" && m.File == filepath.Join(l.Home, ".ssh", "more") && m.Line == 2
	}
	if !found {
		t.Errorf("the included file is not named: %v", ms)
	}
}

// Following the hint of a Mismatch resolves it.
func TestVerifyHintHelps(t *testing.T) {
	_, ms := verifyIn(t, "Host * !a\n  RemoteForward 8080 localhost:80\n  SendEnv SECRET\n")
	for _, m := range ms {
		if m.Got != "TOKEN_MORE" {
			t.Error(m)
		}
	}
}

func TestVerifyClean(t *testing.T) {
	_, ms := verifyIn(t, "Host *\n  User me\n  Port 99\n  HostName elsewhere\n  HostKeyAlias z\n  ProxyJump bastion\n  ControlMaster auto\n  SendEnv LANG LC_*\n  UpdateHostKeys yes\n  ForwardX11 yes\n  PreferredAuthentications password\n  HostKeyAlgorithms ssh-rsa\n  CanonicalizeHostname always\n  ServerAliveInterval 1\n  ConnectTimeout 1\n  AddKeysToAgent yes\n  IdentitiesOnly no\n")
	for _, m := range ms {
		if m.Got != "TOKEN_MORE" {
			t.Error(m)
		}
	}
}

// hostile lists lines of a "Host *" or of the system's file that made the alias useless before
// the stanza pinned them. TestLoginDespiteUserOptions logs in with each.
var hostile = []string{
	"PubkeyAcceptedAlgorithms rsa-sha2-512", "PubkeyAcceptedAlgorithms -ssh-ed25519", "PubkeyAcceptedKeyTypes ssh-rsa",
	"AddressFamily inet6", "Ciphers 3des-cbc", "Ciphers -*", "KexAlgorithms diffie-hellman-group1-sha1", "MACs hmac-md5",
	"HostKeyAlgorithms rsa-sha2-512", "HostKeyAlgorithms -ssh-ed25519", "HostKeyAlgorithms ^rsa-sha2-256", "RevokedHostKeys /nonexistent/revoked",
	"PKCS11Provider /nonexistent/pkcs11.so", "BindAddress 192.0.2.1", "BindAddress ::1", "BindInterface aivm-none", "ClearAllForwardings yes", "ExitOnForwardFailure yes",
	"SessionType none", "StdinNull yes", "ForkAfterAuthentication yes", "IdentitiesOnly no", "PubkeyAuthentication no",
	"StrictHostKeyChecking ask", "UserKnownHostsFile /dev/null", "HostKeyAlias other", "ProxyCommand /bin/false", "ProxyJump nowhere.invalid",
	"PreferredAuthentications password", "CanonicalizeHostname always", "ConnectTimeout 1", "Port 1", "User nobody", "HostName nowhere.invalid",
	"ControlMaster yes", "ControlPath /nonexistent/%C", "KnownHostsCommand /bin/false", "VerifyHostKeyDNS yes", "CheckHostIP yes", "Tunnel yes",
	"LogLevel DEBUG3", "BatchMode yes", "Compression yes", "EscapeChar none", "VisualHostKey yes", "GatewayPorts yes", "TCPKeepAlive no",
	"IdentityAgent none", "ConnectionAttempts 1", "RekeyLimit 16 1", "IPQoS throughput", "NumberOfPasswordPrompts 0",
}

// Neither the user's file nor the system's changes what the stanza pins, and Verify says so.
func TestVerifyPinned(t *testing.T) {
	l := newLayout(t)
	want := stanzaFor(l, "a")
	for _, line := range hostile {
		write(t, l.sshConfig(), "Host *\n  "+line+"\nMatch final all\n  "+line+"\n", 0o600)
		apply(t, l, want)
		if ms, err := Verify(context.Background(), l, "a", want, nil); err != nil || len(ms) > 0 {
			t.Errorf("%s: %v, %v", line, ms, err)
		}
	}
}

// An entry of an earlier aivm is compared by what ssh makes of it: it is right where the user
// sets none of the options that it lacks, and the option is named where the user does.
func TestVerifyOlderEntry(t *testing.T) {
	l := newLayout(t)
	want := stanzaFor(l, "a")
	apply(t, l, want)
	text := read(t, l.ConfPath("a"))
	for _, k := range addedPins {
		at := strings.Index(text, "    "+k+" ")
		text = text[:at] + text[at+strings.IndexByte(text[at:], '\n')+1:]
	}
	write(t, l.ConfPath("a"), text, 0o600)
	if ms, err := Observe(l, want).Differences(want); err != nil || len(ms) > 0 {
		t.Errorf("%v, %v", ms, err)
	}
	if as, err := Plan(Observe(l, want), want); err != nil || len(as) != 1 {
		t.Errorf("the entry is not written again: %v, %v", ids(as), err)
	}
	ms, err := Verify(context.Background(), l, "a", want, nil)
	if err != nil || len(ms) > 0 {
		t.Errorf("%v, %v", ms, err)
	}
	write(t, l.sshConfig(), read(t, l.sshConfig())+"Host *\n  Ciphers 3des-cbc\n", 0o600)
	ms, err = Verify(context.Background(), l, "a", want, nil)
	if err != nil || !slices.ContainsFunc(ms, func(m Mismatch) bool { return m.Option == "ciphers" && m.Line == 5 && !m.Elsewhere() }) {
		t.Errorf("%v, %v", ms, err)
	}
}

func TestVerifyIncludeLost(t *testing.T) {
	l := newLayout(t)
	want := stanzaFor(l, "a")
	apply(t, l, want)
	// Below a Host line the Include only applies to that host.
	write(t, l.sshConfig(), "Host x\n"+read(t, l.sshConfig()), 0o600)
	ms, err := Verify(context.Background(), l, "a", want, nil)
	if err != nil || len(ms) != 1 || ms[0].Option != "include" || !strings.Contains(ms[0].Hint, "Include "+l.ConfigDir) {
		t.Errorf("%+v, %v", ms, err)
	}
	// A value that takes effect because it comes before the Include is reported.
	write(t, l.sshConfig(), "Include first\n"+strings.TrimPrefix(read(t, l.sshConfig()), "Host x\n"), 0o600)
	write(t, filepath.Join(l.Home, ".ssh", "first"), "# c\nHost *\n  User me\n  ForwardAgent yes\n", 0o600)
	file := read(t, l.sshConfig())
	write(t, l.sshConfig(), strings.Replace(file, "Include first", "Include "+filepath.Join(l.Home, ".ssh", "first"), 1), 0o600)
	ms, err = Verify(context.Background(), l, "a", want, nil)
	if err != nil || len(ms) != 2 || ms[0].Option != "user" || ms[0].Got != "me" || ms[0].Want != "agent" || ms[0].Line != 3 || ms[1].Option != "forwardagent" {
		t.Errorf("%+v, %v", ms, err)
	}
	if err := os.Remove(l.ConfPath("a")); err != nil {
		t.Fatal(err)
	}
	ms, err = Verify(context.Background(), l, "a", want, nil)
	if err != nil || len(ms) != 1 || ms[0].Option != "include" {
		t.Errorf("%+v, %v", ms, err)
	}
}

func TestVerifyFailures(t *testing.T) {
	l := newLayout(t)
	want := stanzaFor(l, "a")
	apply(t, l, want)
	write(t, l.sshConfig(), read(t, l.sshConfig())+"NoSuchOption yes\n", 0o600)
	if _, err := Verify(context.Background(), l, "a", want, nil); err == nil || !strings.Contains(strings.ToLower(err.Error()), "nosuchoption") {
		t.Errorf("the message of ssh is missing: %v", err)
	}
	write(t, l.sshConfig(), bomText+"# c\n", 0o600)
	apply(t, l, want)
	if _, err := Verify(context.Background(), l, "a", want, nil); err == nil || !strings.Contains(hints(err), "byte order mark") {
		t.Errorf("%v %s", err, hints(err))
	}
	_, err := Verify(context.Background(), l, "a", want, func(context.Context, []string) ([]byte, []byte, error) {
		return nil, nil, &exec.Error{Name: "ssh", Err: exec.ErrNotFound}
	})
	if !errors.Is(err, exec.ErrNotFound) || hints(err) == "" {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Verify(ctx, l, "a", want, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// Verify passes -F to ssh only if ssh would read another file by default.
func TestVerifyConfigFile(t *testing.T) {
	l := newLayout(t)
	apply(t, l, stanzaFor(l, "a"))
	var mu sync.Mutex
	var argvs []string
	run := func(ctx context.Context, argv []string) ([]byte, []byte, error) {
		mu.Lock()
		defer mu.Unlock()
		if !slices.Contains(argv, "none") { // not the stanza alone
			argvs = append(argvs, strings.Join(argv, " "))
		}
		return []byte("host a\n"), nil, nil
	}
	if _, err := Verify(context.Background(), l, "a", stanzaFor(l, "a"), run); err != nil {
		t.Fatal(err)
	}
	home, err := SSHHome()
	if err != nil {
		t.Fatal(err)
	}
	l.SSHConfigPath = filepath.Join(home, ".ssh", "config")
	if _, err := Verify(context.Background(), l, "a", stanzaFor(l, "a"), run); err != nil {
		t.Fatal(err)
	}
	want := []string{"ssh -G -F " + filepath.Join(l.Home, ".ssh", "config") + " -- a", "ssh -G -- a"}
	if strings.Join(argvs, "\n") != strings.Join(want, "\n") {
		t.Errorf("%q", argvs)
	}
}

func TestScanSkipsBadLines(t *testing.T) {
	l := newLayout(t)
	dir := filepath.Join(l.Home, ".ssh")
	write(t, l.sshConfig(), "Include config\nInclude missing/*\nInclude [\nInclude dir\n\"Host\" q\nHost \"open\nHost a\n", 0o600)
	if err := os.Mkdir(filepath.Join(dir, "dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	if cs := Others(l, "a"); len(cs) == 0 || cs[len(cs)-1].Line != 7 {
		t.Error(cs)
	}
}

func TestMatchPattern(t *testing.T) {
	for _, c := range []struct {
		p, s string
		want bool
	}{
		{"a", "a", true},
		{"a", "b", false},
		{"*", "", true},
		{"*", "x", true},
		{"a*", "ab", true},
		{"*b", "aab", true},
		{"a?c", "abc", true},
		{"a?c", "ac", false},
		{"?", "", false},
		{"a*c*", "abc", true},
		{"a*c", "abd", false},
		{"", "", true},
		{"", "a", false},
		{"A", "a", false},
	} {
		if got := matchPattern(c.p, c.s); got != c.want {
			t.Errorf("%q %q: %v", c.p, c.s, got)
		}
	}
}
