package cloudinit

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// hostKey returns a key pair made only for these tests.
func hostKey(t *testing.T) (private, public string) {
	t.Helper()
	b, err := os.ReadFile("testdata/host-key")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b), strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
}

func guest(t *testing.T) Guest {
	t.Helper()
	private, public := hostKey(t)
	return Guest{
		InstanceID: "aivm-a-20260101T000000", Hostname: "a", User: "agent",
		AuthorizedKeys:    []string{public + " me@<laptop> & \"quoted\" \\ ünïcode 'x' = << : #"},
		HostKeyPrivatePEM: private, HostKeyPublic: public,
		MAC: "52:54:00:AA:bb:01",
	}
}

func files(t *testing.T, g Guest) map[string][]byte {
	t.Helper()
	m := map[string][]byte{}
	for name, f := range map[string]func(Guest) ([]byte, error){
		"user-data": UserData, "meta-data": MetaData, "network-config": NetworkConfig, cloneFile: CloneScript,
	} {
		b, err := f(g)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		m[name] = b
	}
	return m
}

func TestGolden(t *testing.T) {
	for name, got := range files(t, guest(t)) {
		path := filepath.Join("testdata", name+".golden")
		if *update {
			if err := os.WriteFile(path, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(want), string(got)); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

// TestSchema validates the user-data with cloud-init itself.
func TestSchema(t *testing.T) {
	path := filepath.Join(t.TempDir(), "user-data")
	if err := os.WriteFile(path, files(t, guest(t))["user-data"], 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("cloud-init", "schema", "-c", path).CombinedOutput()
	// cloud-init 22.4 prints the first message, 25.1 the second.
	valid := bytes.Contains(out, []byte("Valid cloud-config")) || bytes.Contains(out, []byte("Valid schema"))
	if err != nil || !valid || bytes.Contains(out, []byte("DEPRECAT")) {
		t.Errorf("cloud-init schema: %v\n%s", err, out)
	}
}

// TestYAMLReadsBack parses the files with PyYAML, which cloud-init uses: every string must be
// the same as in JSON.
func TestYAMLReadsBack(t *testing.T) {
	all := files(t, guest(t))
	odd, err := encode("", []string{
		"=", "<<", "yes", "~", "", " x ", "a: b #c", "\ttab", "{{ jinja }}", "\x00\x1b[2J", "\x7f", "\u0080\u009f", "\u0085x",
		"\u2028\u2029", "\ufeff\ufffe\uffff", "\U0001F600", `\"'`, "line\r\nline", "<&>", "ünïcode", "2026-01-01", "0x10", "1_000", "!!x", "%",
	})
	if err != nil {
		t.Fatal(err)
	}
	all["odd strings"] = odd
	delete(all, cloneFile) // a shell script
	for name, b := range all {
		cmd := exec.Command("python3", "-c", "import json,sys,yaml; print(json.dumps(yaml.safe_load(sys.stdin.buffer.read())))")
		cmd.Stdin = bytes.NewReader(b)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: reading with PyYAML: %v", name, err)
		}
		var want, got any
		if err := json.Unmarshal(bytes.TrimPrefix(b, []byte("#cloud-config\n")), &want); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(out, &got); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("PyYAML reads %s differently (-want +got):\n%s", name, d)
		}
	}
}

func TestRefused(t *testing.T) {
	const otherPublic = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICcFTk5rlHVWxAsdGlVuPeBgBN1jkLuvQO12wY0YgbGK"
	for name, change := range map[string]func(*Guest){
		"instance id":      func(g *Guest) { g.InstanceID = "../x" },
		"no instance id":   func(g *Guest) { g.InstanceID = "" },
		"host name quote":  func(g *Guest) { g.Hostname = `a"b` },
		"host name upper":  func(g *Guest) { g.Hostname = "Abc" },
		"host name dash":   func(g *Guest) { g.Hostname = "abc-" },
		"host name long":   func(g *Guest) { g.Hostname = strings.Repeat("a", 64) },
		"host name line":   func(g *Guest) { g.Hostname = "a\nb" },
		"user empty":       func(g *Guest) { g.User = "" },
		"user root":        func(g *Guest) { g.User = "root" },
		"user of a group":  func(g *Guest) { g.User = "sudo" },
		"user of systemd":  func(g *Guest) { g.User = "systemd-x" },
		"user dash":        func(g *Guest) { g.User = "-f" },
		"user unicode":     func(g *Guest) { g.User = "jürgen" },
		"user sudo rule":   func(g *Guest) { g.User = "a ALL=(ALL) ALL" },
		"user long":        func(g *Guest) { g.User = strings.Repeat("u", 33) },
		"no keys":          func(g *Guest) { g.AuthorizedKeys = nil },
		"key with newline": func(g *Guest) { g.AuthorizedKeys[0] += "\n" + otherPublic },
		"key is no key":    func(g *Guest) { g.AuthorizedKeys[0] = "hello" },
		"key not UTF-8":    func(g *Guest) { g.AuthorizedKeys[0] += " \xff" },
		"key with U+2028":  func(g *Guest) { g.AuthorizedKeys[0] += "\u2028" + otherPublic },
		"key with NEL":     func(g *Guest) { g.AuthorizedKeys[0] += "\u0085" + otherPublic },
		"key is private":   func(g *Guest) { g.AuthorizedKeys[0] = g.HostKeyPrivatePEM },
		"no host key":      func(g *Guest) { g.HostKeyPrivatePEM = "" },
		"another host key": func(g *Guest) { g.HostKeyPublic = otherPublic },
		"host key options": func(g *Guest) { g.HostKeyPublic = "no-pty " + g.HostKeyPublic },
		"MAC":              func(g *Guest) { g.MAC = "52:54:00:aa:bb" },
		"MAC of a group":   func(g *Guest) { g.MAC = "01:54:00:aa:bb:01" },
		"MAC of 8 bytes":   func(g *Guest) { g.MAC = "02:00:5e:10:00:00:00:01" },
	} {
		t.Run(name, func(t *testing.T) {
			g := guest(t)
			change(&g)
			b, err := Seed(g)
			var fe *FieldError
			if !errors.As(err, &fe) || b != nil {
				t.Fatalf("got %d bytes, %v; want a FieldError", len(b), err)
			}
			if strings.ContainsAny(err.Error(), "\n") {
				t.Errorf("message %q", err)
			}
		})
	}
}

// A private key given in place of a public one does not appear in the error.
func TestRefusedKeepsSecrets(t *testing.T) {
	g := guest(t)
	g.AuthorizedKeys = []string{g.HostKeyPrivatePEM}
	_, err := UserData(g)
	if err == nil || strings.Contains(err.Error(), "b3BlbnNzaC1rZXk") {
		t.Errorf("message: %v", err)
	}
}

func TestOtherKeyTypeIsRefused(t *testing.T) {
	g := guest(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "k")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-C", "", "-f", path).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	private, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	public, err := os.ReadFile(path + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	g.HostKeyPrivatePEM, g.HostKeyPublic = string(private), strings.TrimSpace(string(public))
	var fe *FieldError
	if err := g.Check(); !errors.As(err, &fe) || fe.Field != "host key" {
		t.Errorf("got %v", err)
	}
}
