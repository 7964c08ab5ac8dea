package sshcfg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"aivm.dev/aivm/internal/ui"
)

// Runner runs a program without a terminal and returns what it wrote.
type Runner func(ctx context.Context, argv []string) (stdout, stderr []byte, err error)

// Exec is the Runner that really runs programs.
func Exec(ctx context.Context, argv []string) (stdout, stderr []byte, err error) {
	var out, errw bytes.Buffer
	c := exec.CommandContext(ctx, argv[0], argv[1:]...)
	c.Stdout, c.Stderr = &out, &errw
	err = c.Run()
	return out.Bytes(), errw.Bytes(), err
}

// Mismatch is a way in which ssh would do something else than was meant.
type Mismatch struct {
	Option string // as "ssh -G" spells it; "include": ssh does not read our file at all
	Want   string // empty: the option should not be there
	Got    string
	File   string // where it comes from, if it was found
	Line   int
	Hint   string
}

func (m Mismatch) String() string {
	at := ""
	if m.File != "" {
		at = fmt.Sprintf(" (%s line %d)", m.File, m.Line)
	}
	switch {
	case m.Option == "include":
		return "ssh does not read " + m.Want + at
	case m.Want == "":
		return fmt.Sprintf("%s %s is added to the connection%s", m.Option, m.Got, at)
	}
	return fmt.Sprintf("%s is %s, not %s%s", m.Option, orNone(m.Got), m.Want, at)
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// added are options ssh collects from every matching block, so that no stanza
// of ours can take a user's away (checked: "SendEnv -*" does not either).
var added = []string{
	"identityfile", "certificatefile", "sendenv", "setenv",
	"remoteforward", "localforward", "dynamicforward",
}

// foreign are options our stanza leaves alone, because editors trip over
// them or because they have no value that means "none", and which break or
// bend the alias when a user's "Host *" sets them.
var foreign = []string{
	"requesttty", "remotecommand", "sessiontype", "stdinnull",
	"forkafterauthentication", "bindaddress", "bindinterface", "pkcs11provider",
}

// Verify asks ssh what it makes of the alias and compares that with what it
// makes of our file alone: the same program says both, so releases that spell
// values differently do not matter. It needs two processes of some
// milliseconds and belongs behind a change, not on the warm path. (ssh runs
// the user's own "Match exec" commands then, as at every connection.)
func Verify(ctx context.Context, l Layout, alias string, want Stanza, run Runner) ([]Mismatch, error) {
	if run == nil {
		run = Exec
	}
	if err := ValidAlias(alias); err != nil {
		return nil, err
	}
	text, err := Render(want)
	if err != nil {
		return nil, err
	}
	if err := l.Guarded(); err != nil {
		return nil, err
	}
	own := l.ConfPath(alias)
	f, err := readFile(own)
	if err != nil {
		return nil, ui.Failed("reading %s: %w", own, err)
	}
	if !f.Exists || !bytes.Equal(f.Data, text) {
		return []Mismatch{{
			Option: "include", Want: own, File: "", Hint: "run the command again: aivm's file of this VM is missing or was changed",
		}}, nil
	}
	ref, err := effective(ctx, run, []string{"-F", own}, alias)
	if err != nil {
		return nil, err
	}
	got, err := effective(ctx, run, l.SSHArgs(), alias)
	if err != nil {
		var e *ui.Error
		if c, cerr := readFile(l.sshConfig()); cerr == nil && bytes.HasPrefix(c.Data, bom) && errors.As(err, &e) {
			// It was unreadable to ssh before us: we keep every byte, this one too.
			e.Hint(ui.Remark(l.sshConfig() + " begins with a byte order mark, at which OpenSSH stops; save it as UTF-8 without one"))
		}
		return nil, err
	}
	lost := true
	for _, k := range []string{"hostname", "user", "userknownhostsfile", "hostkeyalias"} {
		lost = lost && !slices.Equal(ref[k], got[k])
	}
	if lost {
		line, _ := l.IncludeLine()
		return []Mismatch{{
			Option: "include", Want: own, Hint: "the first line of " + l.sshConfig() + " should be: " + line,
		}}, nil
	}
	return compare(ref, got, alias, l.directives(alias)), nil
}

// effective runs "ssh -G" and collects its values by option.
func effective(ctx context.Context, run Runner, args []string, alias string) (map[string][]string, error) {
	argv := slices.Concat([]string{"ssh", "-G"}, args, []string{"--", alias})
	out, stderr, err := run(ctx, argv)
	if errors.Is(err, exec.ErrNotFound) {
		return nil, ui.Failed("running %s: %w", strings.Join(argv, " "), err).Hint(ui.Cmd("aivm host doctor"))
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		said := strings.TrimSpace(string(stderr))
		return nil, ui.Failed("%s failed: %w: %s", strings.Join(argv, " "), err, said).
			Hint(ui.Cmd("ssh itself cannot read its configuration; repair the line it names"))
	}
	m := map[string][]string{}
	for l := range strings.Lines(string(out)) {
		k, v, _ := strings.Cut(strings.TrimRight(l, "\r\n"), " ")
		if v == "none" && k != "canonicaldomains" {
			continue // some releases print it, some leave the option out
		}
		m[strings.ToLower(k)] = append(m[strings.ToLower(k)], v)
	}
	return m, nil
}

func compare(ref, got map[string][]string, alias string, ds []directive) []Mismatch {
	var ms []Mismatch
	single := []string{"hostname", "port", "user", "userknownhostsfile", "hostkeyalias"}
	for _, kv := range pinned {
		single = append(single, strings.ToLower(kv[0]))
	}
	for _, k := range append(single, foreign...) {
		w, g := strings.Join(ref[k], ", "), strings.Join(got[k], ", ")
		if w == g {
			continue
		}
		m := Mismatch{Option: k, Want: orNone(w), Got: g}
		m.locate(ds, alias, 0)
		ms = append(ms, m)
	}
	for _, k := range added {
		extra := 0
		for _, v := range without(got[k], ref[k]) {
			if !harmless(k, v) {
				m := Mismatch{Option: k, Got: v}
				m.locate(ds, alias, extra)
				ms = append(ms, m)
			}
			extra++
		}
		for _, v := range without(ref[k], got[k]) {
			m := Mismatch{Option: k, Want: v}
			m.locate(ds, alias, 0)
			ms = append(ms, m)
		}
	}
	return ms
}

// without is a minus b, one for one.
func without(a, b []string) []string {
	rest := slices.Clone(b)
	var out []string
	for _, v := range a {
		if i := slices.Index(rest, v); i >= 0 {
			rest = slices.Delete(rest, i, i+1)
		} else {
			out = append(out, v)
		}
	}
	return out
}

// harmless says that nothing of the host's goes along: language and terminal,
// which Debian's own /etc/ssh/ssh_config sends to every host.
func harmless(option, value string) bool {
	if option != "sendenv" && option != "setenv" {
		return false
	}
	name, _, _ := strings.Cut(value, "=")
	switch name {
	case "LANG", "LANGUAGE", "TERM", "COLORTERM", "NO_COLOR":
		return true
	}
	return strings.HasPrefix(name, "LC_")
}

// locate finds the line an option comes from: one with that very value, else
// the nth that may apply, since ssh prints collected values in reading order.
func (m *Mismatch) locate(ds []directive, alias string, nth int) {
	var hit *directive
	seen := 0
	for i := range ds {
		d := &ds[i]
		if d.keyword != m.Option || d.applies == no {
			continue
		}
		if slices.Contains(d.args, m.Got) || strings.Join(d.args, " ") == m.Got {
			hit = d
			break
		}
		if hit == nil || seen == nth {
			hit = d
		}
		seen++
	}
	what := m.Option + " " + m.Got
	if hit == nil {
		m.Hint = "look for " + what + " with: ssh -vG " + alias
		return
	}
	m.File, m.Line = hit.file, hit.line
	m.Hint = fmt.Sprintf("keep line %d of %s from this VM: put it below a Host line that leaves it out, such as \"Host * !%s\"", hit.line, hit.file, alias)
}
