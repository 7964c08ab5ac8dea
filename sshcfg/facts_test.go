package sshcfg

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"

	"aivm.dev/aivm/internal/plan"
)

// The plans depend on the facts only: none of these files exists.
func TestPlansOfFacts(t *testing.T) {
	l := Layout{Home: "/no/home", ConfigDir: "/no/conf", StateDir: "/no/state"}
	st := Stanza{
		Alias: "a", HostName: "10.77.0.50", User: "u", Port: 22, Identities: []string{"/no/state/key"}, KnownHosts: l.KnownHostsPath("a"), HostKeyAlias: "a",
	}
	text, err := Render(st)
	if err != nil {
		t.Fatal(err)
	}
	path := l.ConfPath("a")
	own := File{Path: path, Target: path, Exists: true, Mode: 0o600, Data: text}
	with, err := ensureInclude([]byte("Host x\n"), l.storeIn([]byte("Host x\n")))
	if err != nil {
		t.Fatal(err)
	}
	conf := File{Path: l.sshConfig(), Target: l.sshConfig(), Exists: true, Mode: 0o600, Data: with}
	all := Facts{Layout: l, Config: plan.Yes(conf), Own: plan.Yes(own), DirMode: plan.Yes(fs.FileMode(0o700))}
	broken := errors.New("broken")
	for name, tc := range map[string]struct {
		change func(*Facts)
		ids    []string
		err    error
	}{
		"nothing to do":     {func(*Facts) {}, nil, nil},
		"no file":           {func(f *Facts) { f.Own = plan.Yes(File{Path: path, Target: path}) }, []string{"ssh.config:a"}, nil},
		"other text":        {func(f *Facts) { f.Own.Value.Data = []byte("x") }, []string{"ssh.config:a"}, nil},
		"wrong mode":        {func(f *Facts) { f.Own.Value.Mode = 0o644 }, []string{"ssh.config:a"}, nil},
		"a link":            {func(f *Facts) { f.Own.Value.Target = "/else/where" }, []string{"ssh.config:a"}, nil},
		"open directory":    {func(f *Facts) { f.DirMode = plan.Yes(fs.FileMode(0o755)) }, []string{"ssh.config:a"}, nil},
		"unknown directory": {func(f *Facts) { f.DirMode.Err = broken }, nil, broken},
		"unknown file":      {func(f *Facts) { f.Own.Err = broken }, nil, broken},
		"no Include":        {func(f *Facts) { f.Config.Value.Data = []byte("Host x\n") }, []string{"ssh.include"}, nil},
		"no configuration":  {func(f *Facts) { f.Config = plan.Yes(File{Path: l.sshConfig()}) }, []string{"ssh.include"}, nil},
		"taken":             {func(f *Facts) { f.Clashes = []Clash{{File: "/no/x", Line: 3}} }, nil, ErrAliasTaken},
		"of 0.3":            {func(f *Facts) { f.Clashes = []Clash{{File: "/no/x", Line: 3, Legacy: true}} }, nil, nil},
		"guest can write":   {func(f *Facts) { f.Own.Value.Data, f.Guarded = nil, ErrGuest }, nil, ErrGuest},
		"unreadable":        {func(f *Facts) { f.Own.Value.Data, f.Config.Err = nil, broken }, []string{"ssh.config:a"}, ErrReadOnly},
		"not replaceable":   {func(f *Facts) { f.Config.Value.Data, f.Config.Value.Blocked = nil, broken }, nil, ErrReadOnly},
	} {
		f := all
		tc.change(&f)
		as, err := Plan(f, st)
		if got := ids(as); !slices.Equal(got, tc.ids) || !errors.Is(err, tc.err) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}

	gone := Remains{Layout: l, VM: "a", Alias: "a", Files: []string{path}, Config: plan.Yes(conf)}
	for name, tc := range map[string]struct {
		change func(*Remains)
		ids    []string
		err    error
	}{
		"the last":        {func(*Remains) {}, []string{"ssh.remove:a", "ssh.include.remove"}, nil},
		"others":          {func(r *Remains) { r.Others = true }, []string{"ssh.remove:a"}, nil},
		"no files":        {func(r *Remains) { r.Files = nil }, []string{"ssh.include.remove"}, nil},
		"no Include":      {func(r *Remains) { r.Config.Value.Data = []byte("Host x\n") }, []string{"ssh.remove:a"}, nil},
		"not replaceable": {func(r *Remains) { r.Config.Value.Blocked = broken }, []string{"ssh.remove:a"}, nil},
		"unreadable":      {func(r *Remains) { r.Config.Err = ErrGuest }, []string{"ssh.remove:a"}, nil},
		"unknown":         {func(r *Remains) { r.Err = broken }, nil, broken},
	} {
		r := gone
		tc.change(&r)
		as, err := PlanRemove(r)
		if got := ids(as); !slices.Equal(got, tc.ids) || !errors.Is(err, tc.err) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		if stays := r.Config.Err != nil || r.Config.Value.Blocked != nil; len(as) > 0 && strings.Contains(as[0].Why, "stays") != stays {
			t.Errorf("%s: %s", name, as[0].Why)
		}
	}

	conf.Data = []byte("Host x\n# >>> aivm:a >>>\nHost a\n# <<< aivm:a <<<\n")
	for name, tc := range map[string]struct {
		change func(*Facts)
		ids    []string
		err    error
	}{
		"a block":         {func(*Facts) {}, []string{"ssh.legacy:a"}, nil},
		"no block":        {func(f *Facts) { f.Config.Value.Data = with }, nil, nil},
		"guest can write": {func(f *Facts) { f.Guarded = ErrGuest }, nil, ErrGuest},
		"unreadable":      {func(f *Facts) { f.Config.Err = broken }, nil, ErrReadOnly},
		"not replaceable": {func(f *Facts) { f.Config.Value.Blocked = broken }, nil, ErrReadOnly},
	} {
		f := Facts{Layout: l, Config: plan.Yes(conf)}
		tc.change(&f)
		as, err := PlanRemoveLegacy(f, "a")
		if got := ids(as); !slices.Equal(got, tc.ids) || !errors.Is(err, tc.err) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func TestDifferences(t *testing.T) {
	l := newLayout(t)
	want := stanzaFor(l, "a")
	apply(t, l, want)
	path := l.ConfPath("a")
	text := read(t, path)
	for name, tc := range map[string]struct {
		old, replacement, want string
		err                    bool
	}{
		"as written":         {"", "", "", false},
		"a comment":          {"# Written", "# I wrote", "", false},
		"another address":    {"HostName 10.77.0.50", "HostName 10.77.0.51", "HostName is 10.77.0.51, not 10.77.0.50", false},
		"another user":       {"    User ", "    User not-", "User is not-" + want.User + ", not " + want.User, false},
		"another name":       {"Host a", "Host b", "Host is b, not a", false},
		"a missing option":   {"    ForwardAgent no\n", "", "ForwardAgent is none, not no", false},
		"an option is twice": {"    ForwardAgent no\n", "    ForwardAgent yes\n    ForwardAgent no\n", "ForwardAgent is yes no, not no", false},
		"an Include":         {"Host a\n", "Include /x\nHost a\n", "", true},
		"two hosts":          {"Host a\n", "Host b\nHost a\n", "", true},
	} {
		write(t, path, strings.Replace(text, tc.old, tc.replacement, 1), 0o600)
		ms, err := Observe(l, want).Differences(want)
		if (err != nil) != tc.err || err != nil && !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
		got := ""
		for _, m := range ms {
			got += strings.TrimSuffix(m.String(), " ("+path+" line 0)")
		}
		if got != tc.want {
			t.Errorf("%s: %q, not %q", name, got, tc.want)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if ms, err := Observe(l, want).Differences(want); len(ms) > 0 || err != nil {
		t.Errorf("no file: %v %v", ms, err)
	}
}
