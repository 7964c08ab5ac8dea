package sshcfg

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
)

func keygen(t *testing.T, path, passphrase string, more ...string) {
	t.Helper()
	args := append([]string{"-q", "-N", passphrase, "-C", "me@here", "-f", path}, more...)
	if out, err := exec.Command("ssh-keygen", args...).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen %v: %v\n%s", args, err, out)
	}
}

func TestOwnKey(t *testing.T) {
	l := newLayout(t)
	ctx := context.Background()
	got, err := l.Identities(ctx, "", noenv)
	if err != nil || len(got) != 0 {
		t.Fatalf("%v, %v", got, err)
	}
	as := PlanOwnKey(l, got)
	if len(as) != 1 {
		t.Fatal(as)
	}
	do(t, as)
	if mode(t, l.OwnKeyPath()) != 0o600 || mode(t, l.StateDir) != 0o700 {
		t.Error("modes")
	}
	got, err = l.Identities(ctx, "", noenv)
	if err != nil || len(got) != 1 || !got[0].AivmKey || !got[0].Usable() || got[0].Comment != "aivm" {
		t.Fatalf("%+v, %v", got, err)
	}
	if as := PlanOwnKey(l, got); len(as) != 0 {
		t.Error(as)
	}
	// ssh-keygen derives the same public key from the private key.
	out, err := exec.Command("ssh-keygen", "-y", "-f", l.OwnKeyPath()).Output()
	if err != nil || !strings.HasPrefix(read(t, l.OwnKeyPath()+".pub"), strings.TrimSpace(string(out))) {
		t.Errorf("%s %v", out, err)
	}
	// The key is never overwritten; a missing .pub file is written again.
	before := read(t, l.OwnKeyPath())
	pub := read(t, l.OwnKeyPath()+".pub")
	if err := os.Remove(l.OwnKeyPath() + ".pub"); err != nil {
		t.Fatal(err)
	}
	if got, err = l.Identities(ctx, "", noenv); err != nil {
		t.Fatal(err)
	}
	as = PlanOwnKey(l, got)
	if len(as) != 1 {
		t.Fatal(as)
	}
	do(t, as)
	if read(t, l.OwnKeyPath()) != before || read(t, l.OwnKeyPath()+".pub") != pub {
		t.Error("the key changed")
	}
	if err := CreateOwnKey(l); err != nil || read(t, l.OwnKeyPath()) != before {
		t.Error(err)
	}
}

func TestOwnKeyConcurrently(t *testing.T) {
	l := newLayout(t)
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() { errs[i] = CreateOwnKey(l) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	got, err := l.Identities(context.Background(), "", noenv)
	if err != nil || len(got) != 1 || !strings.Contains(read(t, l.OwnKeyPath()+".pub"), strings.Fields(got[0].AuthorizedKey())[1]) {
		t.Errorf("%v, %v", got, err)
	}
	if es, _ := os.ReadDir(l.StateDir); len(es) != 2 {
		t.Errorf("leftover files: %v", es)
	}
}

func TestConfiguredKeys(t *testing.T) {
	l := newLayout(t)
	ctx := context.Background()
	dir := filepath.Join(l.Home, ".ssh")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	at := func(n string) string { return filepath.Join(dir, n) }
	keygen(t, at("plain"), "", "-t", "ed25519")
	keygen(t, at("rsa"), "", "-t", "rsa", "-b", "2048", "-m", "PEM")
	keygen(t, at("enc"), "secret", "-t", "ed25519")
	keygen(t, at("encpem"), "secret", "-t", "rsa", "-b", "2048", "-m", "PEM")
	keygen(t, at("nopub"), "secret", "-t", "ed25519")
	os.Remove(at("nopub.pub"))
	keygen(t, at("agentonly"), "", "-t", "ecdsa")
	os.Remove(at("agentonly"))
	write(t, at("sk"), fakeHardwareKey(t), 0o600)

	for _, c := range []struct {
		configured                string
		encrypted, hardware, only bool
		comment                   string
	}{
		{"~/.ssh/plain", false, false, false, "me@here"},
		{at("rsa"), false, false, false, "me@here"},
		{at("enc"), true, false, false, "me@here"},
		{at("encpem"), true, false, false, "me@here"},
		{at("nopub"), true, false, false, ""},
		{at("agentonly"), false, false, true, "me@here"},
		{at("agentonly.pub"), false, false, true, "me@here"},
		{at("sk"), false, true, false, ""},
	} {
		got, err := l.Identities(ctx, c.configured, noenv)
		if err != nil || len(got) != 1 {
			t.Errorf("%s: %+v, %v", c.configured, got, err)
			continue
		}
		g := got[0]
		if g.Encrypted != c.encrypted || g.Hardware != c.hardware || g.AgentOnly != c.only || g.Comment != c.comment || g.AivmKey || g.InAgent || g.Public == nil {
			t.Errorf("%s: %+v", c.configured, g)
		}
		if needs := c.encrypted || c.hardware || c.only; (len(PlanOwnKey(l, got)) == 1) != needs {
			t.Errorf("%s: own key planned: %v", c.configured, !needs)
		}
	}

	write(t, at("garbage"), "hello\n", 0o600)
	keygen(t, at("open"), "", "-t", "ed25519")
	if err := os.Chmod(at("open"), 0o644); err != nil {
		t.Fatal(err)
	}
	for configured, hint := range map[string]string{
		at("missing"): "ssh_identity_file", at("garbage"): "ssh_identity_file", "relative": "aivm config", at("open"): "chmod 600 ",
	} {
		got, err := l.Identities(ctx, configured, noenv)
		if err == nil || !strings.Contains(hints(err), hint) {
			t.Errorf("%s: %+v, %v, %q", configured, got, err, hints(err))
		}
	}
	if _, err := l.Identities(ctx, at("missing"), noenv); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// fakeHardwareKey returns an sk-ssh-ed25519 key file as described in OpenSSH's PROTOCOL.u2f,
// with a key handle of no real token.
func fakeHardwareKey(t *testing.T) string {
	t.Helper()
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	const kind = "sk-ssh-ed25519@openssh.com"
	blob := ssh.Marshal(struct{ Kind, Key, App string }{kind, string(pub), "ssh:"})
	priv := ssh.Marshal(struct {
		Check1, Check2 uint32
		Kind, Key, App string
		Flags          byte
		Handle, Spare  string
		Comment        string
	}{1, 1, kind, string(pub), "ssh:", 1, "handle", "", "me"})
	for i := byte(1); len(priv)%8 != 0; i++ {
		priv = append(priv, i)
	}
	body := ssh.Marshal(struct {
		Cipher, Kdf, Opts string
		N                 uint32
		Pub, Priv         []byte
	}{"none", "none", "", 1, blob, priv})
	data := pem.EncodeToMemory(&pem.Block{Type: "OPENSSH PRIVATE KEY", Bytes: append([]byte("openssh-key-v1\x00"), body...)})
	// ssh-keygen accepts it as such a key.
	f := filepath.Join(t.TempDir(), "k")
	write(t, f, string(data), 0o600)
	if out, err := exec.Command("ssh-keygen", "-y", "-f", f).CombinedOutput(); err != nil || !strings.HasPrefix(string(out), kind) {
		t.Fatalf("ssh-keygen -y: %s %v", out, err)
	}
	return string(data)
}

func TestStanzaIdentities(t *testing.T) {
	got := StanzaIdentities([]Identity{{Path: "/enc", Encrypted: true, InAgent: true}, {Path: "/plain"}, {Path: "/aivm", AivmKey: true}})
	if !slices.Equal(got, []string{"/plain", "/aivm", "/enc"}) {
		t.Error(got)
	}
}

func TestHostKeyFiles(t *testing.T) {
	l := newLayout(t)
	if _, err := l.LoadHostKey("a"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	k, err := NewHostKey()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := l.SaveHostKey("a", k); err != nil {
			t.Fatal(err)
		}
	}
	other, _ := NewHostKey()
	if err := l.SaveHostKey("a", other); !errors.Is(err, fs.ErrExist) {
		t.Errorf("replaced: %v", err)
	}
	got, err := l.LoadHostKey("a")
	if err != nil || !bytes.Equal(got.PrivatePEM, k.PrivatePEM) || got.AuthorizedKey() != k.AuthorizedKey() {
		t.Errorf("%v", err)
	}
	if mode(t, l.hostKeyPath("a")) != 0o600 || mode(t, l.VMDir("a")) != 0o700 {
		t.Error("modes")
	}
	if err := l.WriteKnownHosts("a", "aivm-a", k.Public); err != nil {
		t.Fatal(err)
	}
	if got := read(t, l.KnownHostsPath("a")); got != "aivm-a "+k.AuthorizedKey()+"\n" {
		t.Error(got)
	}
	for _, vm := range []string{"", ".", "..", "../x", "a/b", "a\n", "id_ed25519", "id_ed25519.pub", "ssh.lock"} {
		if l.SaveHostKey(vm, k) == nil || l.WriteKnownHosts(vm, "a", k.Public) == nil {
			t.Errorf("%q is accepted", vm)
		}
	}
	for _, alias := range []string{"", "*", "a b", "a,b", "|1|x", "@revoked", "#", "!a", "a\nb"} {
		if l.WriteKnownHosts("a", alias, k.Public) == nil {
			t.Errorf("%q is accepted", alias)
		}
	}
}
