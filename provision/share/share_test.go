package share

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
)

func TestParse(t *testing.T) {
	for in, want := range map[string]Mode{
		"shared-root": SharedRoot, "sharedroot": SharedRoot, "shared_root": SharedRoot, "root": SharedRoot, " Shared-Root ": SharedRoot,
		"shared": Shared, "git": Git, "clone": Git, "cloned": Git, "repo": Git,
	} {
		if got, err := ParseMode(in); err != nil || got != want {
			t.Errorf("%q: %q %v", in, got, err)
		}
	}
	for in, want := range map[string]Access{
		"rw": ReadWrite, "readwrite": ReadWrite, "read-write": ReadWrite, "read_write": ReadWrite,
		"ro": ReadOnly, "readonly": ReadOnly, "read-only": ReadOnly, "read_only": ReadOnly,
	} {
		if got, err := ParseAccess(in); err != nil || got != want {
			t.Errorf("%q: %q %v", in, got, err)
		}
	}
	for _, in := range []string{"", "persistent", "x"} {
		if _, err := ParseMode(in); err == nil || err.Error() != "--mode must be one of: git, shared, shared-root" {
			t.Errorf("mode %q: %v", in, err)
		}
		if _, err := ParseAccess(in); err == nil || err.Error() != "--access must be one of: ro, rw" {
			t.Errorf("access %q: %v", in, err)
		}
	}
}

func TestToken(t *testing.T) {
	seen := map[string]string{}
	for _, p := range []string{
		"/", "/a/src", "/b/src", "/a/src ", "/A/src", "/a/Src", "/a/.git", "/a/---", "/ä/ö", "/a/b c&'\"", "/a/" + strings.Repeat("x", 200), "/a/x\x01",
	} {
		tok := Token(p)
		if !root.ValidToken(tok) || len(tok) > 36 {
			t.Errorf("%q: token %q", p, tok)
		}
		if other, ok := seen[tok]; ok {
			t.Errorf("%q and %q share token %q", p, other, tok)
		}
		seen[tok] = p
		if Token(p) != tok {
			t.Errorf("%q: not deterministic", p)
		}
	}
	// Existing mounts are found by the token: it must never change.
	if got := Token("/home/u/My Project"); got != "my-project-0a2da8d45b3d514bb0f997bf" {
		t.Errorf("token is %q now", got)
	}
}

func TestGuestDst(t *testing.T) {
	for _, p := range []string{"", "rel", "/", "/a/", "/a//b", "/a/../b", "/a\nb", "/etc", "/etc/x", "/proc/1", "/root", "/home", "/usr", "/run/aivm/share/x", "/dev/x", "/lib"} {
		if CheckGuestDst(p) == nil {
			t.Errorf("%q was accepted", p)
		}
	}
	for _, p := range []string{"/root/p", "/home/u/p", "/tmp/x", "/usr/local/src/x", "/library", "/p q/'x'"} {
		if err := CheckGuestDst(p); err != nil {
			t.Errorf("%q: %v", p, err)
		}
	}
}

func TestCheckRefuses(t *testing.T) {
	good := Attachment{HostPath: "/p", VM: "a", Mode: SharedRoot, Access: "rw", GuestDst: "/p"}
	with := func(change func(*Attachment)) []Attachment { a := good; change(&a); return []Attachment{a} }
	for name, atts := range map[string][]Attachment{
		"cannot be mounted in mode git": with(func(a *Attachment) { a.Mode = Git }),
		"--access must be":              with(func(a *Attachment) { a.Access = "x" }),
		`folder "/p\nq"`:                with(func(a *Attachment) { a.HostPath = "/p\nq" }),
		"guest's system":                with(func(a *Attachment) { a.GuestDst = "/etc" }),
		"attached twice":                {good, good},
		"would both be mounted at /p":   {good, {HostPath: "/q", VM: "a", Mode: SharedRoot, Access: "rw", GuestDst: "/p"}},
	} {
		for _, err := range []error{
			func() error { _, err := PlanHost(HostFacts{}, "0-a", atts, nil); return err }(),
			func() error { _, _, err := PlanGuest(GuestFacts{}, HostFacts{}, atts); return err }(),
		} {
			var e *ui.Error
			if !errors.As(err, &e) || !strings.Contains(e.Message, name) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestRefuse(t *testing.T) {
	base, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	home := filepath.Join(base, "home", "u")
	state := filepath.Join(home, ".local", "state", "aivm")
	for _, d := range []string{home + "/code/p", home + "/.config/gh", home + "/.config/nvim", home + "/.ssh", state, base + "/keys/real", base + "/other/.gnupg", base + "/bob/.aws", home + "/dots/aws/in"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{home + "/.kube": base + "/keys/real", home + "/.aws": home + "/dots/aws", base + "/way": home + "/.ssh", base + "/myhome": home} {
		if err := os.Symlink(to, link); err != nil {
			t.Fatal(err)
		}
	}
	own := []string{state, filepath.Join(home, ".config", "aivm")}
	fine := []string{home + "/code", home + "/code/p", home + "/.config/nvim", base + "/keys-not", "/srv/x", "/usr/src/x", "/etcetera", home + "/.sshx"}
	no := map[string]bool{ // path: --allow-sensitive lifts it
		"/": false, "/etc": true, "/etc/ssh": true, "/etc/nginx": true, "/proc": true, "/sys/kernel": true, "/root": true, filepath.Dir(home): true,
		home: true, home + "/.ssh": true, home + "/.ssh/sub": true, home + "/.config": true, home + "/.config/gh": true, home + "/.gnupg": true,
		base + "/keys": true, base + "/keys/real": true, base + "/keys/real/x": true, home + "/dots": true, home + "/dots/aws/in": true,
		base + "/bob/.aws": true, base + "/bob/.config/gh/x": true, "/usr": true, "/usr/lib": true, "/home": true, "/run": true, base + "/bob": true,
		base + "/way": true, base + "/myhome": true, base + "/myhome/.docker": true, base + "/other": true,
		home + "/.local": true, state: false, state + "/vm": false, own[1]: false,
		root.ExportBase: false, root.ExportBase + "/0-a": false, "/var/lib/aivm": true, "/var": true,
	}
	for _, p := range fine {
		if err := Refuse(p, home, own, nil); err != nil {
			t.Errorf("%s: %v", p, err)
		}
	}
	for p, lifted := range no {
		err := Refuse(p, home, own, nil)
		var e *ui.Error
		if !errors.As(err, &e) || e.Kind != "refused" {
			t.Errorf("%s: %v, want a refusal", p, err)
			continue
		}
		if hinted := len(e.HintLines()) > 0 && strings.Contains(e.HintLines()[0], "--allow-sensitive "+quote(p)); hinted != lifted {
			t.Errorf("%s: hints %q", p, e.HintLines())
		}
		if err := Refuse(p, home, own, []string{"/elsewhere", p}); (err == nil) != lifted {
			t.Errorf("%s with --allow-sensitive: %v", p, err)
		}
		if err := Refuse(p, home, own, []string{"/elsewhere", home + "/code"}); err == nil {
			t.Errorf("%s: lifted by another path", p)
		}
	}
	if Refuse("/p\nq", home, own, []string{"/p\nq"}) == nil {
		t.Error("a line break was accepted")
	}
}

func ExampleToken() {
	fmt.Println(Token("/a/src") == Token("/b/src"))
	// Output: false
}
