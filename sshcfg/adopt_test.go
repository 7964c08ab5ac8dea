package sshcfg

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/ssh/knownhosts"
)

func TestWithoutLegacy(t *testing.T) {
	block := "# >>> aivm:work >>>\nHost work\n  HostName 10.77.0.101\n# <<< aivm:work <<<\n"
	for in, want := range map[string]string{
		"":                                  "",
		block:                               "",
		"Host a\n\n" + block + "Host b\r\n": "Host a\n\nHost b\r\n",
		block + "x\n" + block:               "x\n",
		"Host a\n" + block[:len(block)-1]:   "Host a\n",
		"# >>> aivm:work >>>\nHost mine\n":  "# >>> aivm:work >>>\nHost mine\n",
		"# >>> aivm:other >>>\n# <<< aivm:other <<<\n":                                                              "# >>> aivm:other >>>\n# <<< aivm:other <<<\n",
		"# >>> aivm:work >>>\nHost mine\n# >>> aivm:other >>>\nHost o\n# <<< aivm:other <<<\n# <<< aivm:work <<<\n": "# >>> aivm:work >>>\nHost mine\n# >>> aivm:other >>>\nHost o\n# <<< aivm:other <<<\n# <<< aivm:work <<<\n",
	} {
		if got := string(withoutLegacy([]byte(in), "work")); got != want {
			t.Errorf("%q became %q, not %q", in, got, want)
		}
	}
}

func TestPlanRemoveLegacy(t *testing.T) {
	home := t.TempDir()
	l := Layout{Home: home, ConfigDir: filepath.Join(home, "c"), StateDir: filepath.Join(home, "s")}
	conf := filepath.Join(home, ".ssh/config")
	if err := os.MkdirAll(filepath.Dir(conf), 0o700); err != nil {
		t.Fatal(err)
	}
	if as, err := PlanRemoveLegacy(Observe(l, Stanza{Alias: "work"}), "work"); err != nil || len(as) != 0 {
		t.Errorf("no file: %v %v", as, err)
	}
	text := "Host a\n# >>> aivm:work >>>\nHost work\n# <<< aivm:work <<<\nHost b\n"
	if err := os.WriteFile(conf, []byte(text), 0o640); err != nil {
		t.Fatal(err)
	}
	as, err := PlanRemoveLegacy(Observe(l, Stanza{Alias: "work"}), "work")
	if err != nil || len(as) != 1 || as[0].Diff == "" {
		t.Fatalf("%v %v", as, err)
	}
	if err := as[0].Do(context.Background()); err != nil {
		t.Fatal(err)
	}
	b, _ := os.ReadFile(conf)
	st, _ := os.Stat(conf)
	if string(b) != "Host a\nHost b\n" || st.Mode().Perm() != 0o640 {
		t.Errorf("%q %v", b, st.Mode())
	}
}

func TestPinnedAndKnownKeys(t *testing.T) {
	home := t.TempDir()
	l := Layout{Home: home, ConfigDir: filepath.Join(home, "c"), StateDir: filepath.Join(home, "s")}
	if _, err := l.PinnedKey("work"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	_, pub, err := newKey("")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.WriteKnownHosts("work", "work", pub); err != nil {
		t.Fatal(err)
	}
	if got, err := l.PinnedKey("work"); err != nil || string(got.Marshal()) != string(pub.Marshal()) {
		t.Errorf("the key of an adopted VM: %v", err)
	}
	own, err := NewHostKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := l.SaveHostKey("work", own); err != nil {
		t.Fatal(err)
	}
	if got, err := l.PinnedKey("work"); err != nil || string(got.Marshal()) != string(own.Public.Marshal()) {
		t.Errorf("a key aivm made: %v", err)
	}

	if k, err := l.KnownKey("10.77.0.101"); k != nil || err != nil {
		t.Errorf("no file: %v %v", k, err)
	}
	kh := filepath.Join(home, ".ssh/known_hosts")
	if err := os.MkdirAll(filepath.Dir(kh), 0o700); err != nil {
		t.Fatal(err)
	}
	text := knownhosts.Line([]string{"10.77.0.5"}, own.Public) + "\n" + knownhosts.Line([]string{knownhosts.HashHostname("10.77.0.101")}, pub) + "\n"
	if err := os.WriteFile(kh, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if k, err := l.KnownKey("10.77.0.101"); err != nil || k == nil || string(k.Marshal()) != string(pub.Marshal()) {
		t.Errorf("hashed: %v %v", k, err)
	}
	if k, err := l.KnownKey("10.77.0.9"); k != nil || err != nil {
		t.Errorf("an unknown address: %v %v", k, err)
	}
}
