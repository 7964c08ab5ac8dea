package templates

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"aivm.dev/aivm/internal/config"
)

func TestSpec(t *testing.T) {
	c := config.DefaultConfig()
	c.UpsertTemplate(config.Template{Name: "web", Image: "debian-12", Packages: []string{"b", "a", "b"}, MemoryMB: 3000, DiskGB: 20})
	big := machineSize{CPUs: 8, MemoryMB: 16000}
	for _, tt := range []struct {
		name string
		o    Options
		m    machineSize
		want Spec
		err  string
	}{
		{name: "defaults", m: big, want: Spec{Name: "default", Image: "auto", MemoryMB: 2048, CPUs: 4, DiskGB: 16}},
		{name: "a small machine", m: machineSize{CPUs: 2, MemoryMB: 2100}, want: Spec{Name: "default", Image: "auto", MemoryMB: 1024, CPUs: 2, DiskGB: 16}},
		{name: "the config's", o: Options{Name: "web"}, m: big, want: Spec{Name: "web", Image: "debian-12", Packages: []string{"a", "b"}, MemoryMB: 3000, CPUs: 4, DiskGB: 20}},
		{name: "flags win", o: Options{Name: "web", Image: "ubuntu-24.04", SetPackages: true, MemoryMB: 512, CPUs: 1, DiskGB: 9}, m: big, want: Spec{Name: "web", Image: "ubuntu-24.04", MemoryMB: 512, CPUs: 1, DiskGB: 9}},
		{name: "a bad name", o: Options{Name: "../x"}, m: big, err: "not allowed"},
		{name: "too much memory", o: Options{MemoryMB: 99999}, m: big, err: "this machine has 16000"},
		{name: "too little", o: Options{MemoryMB: 3}, m: big, err: "too few"},
		{name: "CPUs", o: Options{CPUs: 9}, m: big, err: "this machine has 8"},
		{name: "negative", o: Options{CPUs: -1}, m: big, err: "-1 CPUs"},
		{name: "disk", o: Options{DiskGB: 1}, m: big, err: "a disk of 1 GB"},
		{name: "an option as a package", o: Options{SetPackages: true, Packages: []string{"-oAPT::Update::Pre-Invoke::=x"}}, m: big, err: "not a package name"},
		{name: "a command as a package", o: Options{SetPackages: true, Packages: []string{"a;id"}}, m: big, err: "not a package name"},
		{name: "too many", o: Options{SetPackages: true, Packages: many(201)}, m: big, err: "200 at most"},
	} {
		s, section, err := newSpec(tt.o, &c, tt.m)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: %v", tt.name, err)
			}
			continue
		}
		if err != nil || changedSpec(s, tt.want) != "" || s.Name != tt.want.Name {
			t.Errorf("%s: %+v, %v", tt.name, s, err)
		}
		if section.Name != s.Name || tt.o.MemoryMB == 0 && tt.o.Name == "" && section.MemoryMB != 0 {
			t.Errorf("%s: the section is %+v", tt.name, section)
		}
	}
}

func many(n int) []string {
	var out []string
	for i := range n {
		out = append(out, "p"+strings.Repeat("x", i))
	}
	return out
}

func TestReadScript(t *testing.T) {
	dir := t.TempDir()
	big := filepath.Join(dir, "big")
	if err := errors.Join(os.WriteFile(big, nil, 0o600), os.Truncate(big, maxScript+1), os.WriteFile(filepath.Join(dir, "empty"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"none": "no script", "big": "larger than 1 MiB", "empty": "is empty", ".": "not a regular file"} {
		if _, err := readScript(filepath.Join(dir, name)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The steps' digests change with what they are made from, and only from there on.
func TestStepDigests(t *testing.T) {
	base := Spec{DiskGB: 16, Packages: []string{"a"}, Script: "/s", ScriptSHA256: "1"}
	digests := func(s Spec, disk string, r registry) []string {
		var out []string
		for _, st := range s.steps(disk, r) {
			out = append(out, st.digest)
		}
		return out
	}
	reg := registry{URL: "https://r.example/"}
	want := digests(base, "d", reg)
	if len(want) != 3 {
		t.Fatal(want)
	}
	for _, d := range want {
		if !digestName.MatchString(d) {
			t.Errorf("digest %q", d)
		}
	}
	for name, c := range map[string]struct {
		got   []string
		equal int
	}{
		"the same":         {digests(base, "d", reg), 3},
		"certificates":     {digests(base, "d", registry{URL: reg.URL, CA: []byte("x")}), 3},
		"another image":    {digests(base, "e", reg), 0},
		"another registry": {digests(base, "d", registry{URL: "https://x.example/"}), 0},
		"other packages":   {digests(Spec{DiskGB: 16, Packages: []string{"b"}, Script: "/s", ScriptSHA256: "1"}, "d", reg), 1},
		"another script":   {digests(Spec{DiskGB: 16, Packages: []string{"a"}, Script: "/t", ScriptSHA256: "2"}, "d", reg), 2},
		"memory":           {digests(Spec{DiskGB: 16, MemoryMB: 5, Packages: []string{"a"}, Script: "/s", ScriptSHA256: "1"}, "d", reg), 3},
	} {
		n := 0
		for n < 3 && c.got[n] == want[n] {
			n++
		}
		if n != c.equal {
			t.Errorf("%s: %d equal", name, n)
		}
	}
}

func TestParseVersions(t *testing.T) {
	got := parseVersions("git=2.39.5\r\nnode=v26\nbad\n=1\nx=\nesc=\x1b[1m\n" + strings.Repeat("l", 65) + "=1\nsp ace=1\nos=debian-12\n")
	if len(got) != 3 || got["git"] != "2.39.5" || got["os"] != "debian-12" || got["node"] != "v26" {
		t.Error(got)
	}
	var b strings.Builder
	for _, n := range many(60) {
		b.WriteString(n + "=1\n")
	}
	if got := parseVersions(b.String()); len(got) != 40 {
		t.Error(len(got))
	}
}

func TestRegistry(t *testing.T) {
	files := map[string]string{"/ca": "PEM"}
	read := func(p string) ([]byte, error) {
		if c, ok := files[p]; ok {
			return []byte(c), nil
		}
		return nil, os.ErrNotExist
	}
	for _, c := range []struct {
		user, machine, env, want string
		ca                       bool
	}{
		{want: defaultRegistry},
		{user: "registry=https://r.example/npm/\n//r.example/:_authToken=secret\n", want: "https://r.example/npm/"},
		{machine: "registry = \"http://m.example:4873\"\ncafile=/ca\n", want: "http://m.example:4873/", ca: true},
		{user: "registry=https://u.example", machine: "registry=https://m.example", want: "https://u.example/"},
		{env: "https://e.example/", user: "registry=https://u.example", want: "https://e.example/"},
		{user: "registry=https://name:password@r.example/x/", want: "https://r.example/x/"},
		{user: "registry=file:///etc", want: defaultRegistry},
		{user: "registry=https://a.example/$(id)", want: defaultRegistry},
	} {
		files["/h/.npmrc"], files["/etc/npmrc"] = c.user, c.machine
		r := readRegistry("/h", func(k string) string {
			if k == "npm_config_registry" {
				return c.env
			}
			return ""
		}, read)
		if r.URL != c.want || (r.CA != nil) != c.ca {
			t.Errorf("%+v: %q %q", c, r.URL, r.CA)
		}
	}
}

// Only what a VM of setup may need is allowed: no loopback, no link-local address, no nonsense.
func TestAddresses(t *testing.T) {
	got := addresses([]string{"http://a.example/x", "https://b.example", "ftp://c.example", "http://u:p@d.example:81/", "http://a.example/y", "nonsense", "https://[fd00::1]/", "https://[fd00::1]:444/"})
	want := []string{"a.example:80", "b.example:443", "d.example:81", "[fd00::1]:443", "[fd00::1]:444"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	hosts := map[string][]netip.Addr{}
	add := func(h string, a ...string) {
		for _, x := range a {
			hosts[h] = append(hosts[h], netip.MustParseAddr(x))
		}
	}
	add("mirror.example", "10.1.2.3", "203.0.113.5")
	add("local.example", "127.0.0.1", "169.254.169.254", "0.0.0.0", "224.0.0.1")
	lookup := func(_ context.Context, _, host string) ([]netip.Addr, error) {
		if a := hosts[host]; a != nil {
			return a, nil
		}
		return nil, errors.New("no such host")
	}
	var text []string
	for _, a := range resolve(t.Context(), []string{"mirror.example:80", "local.example:80", "none.example:80", "mirror.example:99999", "x"}, lookup) {
		text = append(text, a.String())
	}
	if got := strings.Join(text, " "); got != "10.1.2.3:80 203.0.113.5:80" {
		t.Error(got)
	}
}
