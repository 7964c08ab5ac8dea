package sshcfg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"

	"aivm.dev/aivm/internal/ui"
)

// Mismatch is an option whose effective value is not the intended one.
type Mismatch struct {
	Option string // as "ssh -G" prints it; "include" if ssh does not read the stanza file at all
	Want   string // "" if the option should not be set
	Got    string
	File   string // file and line the value comes from, if known
	Line   int
	Hint   string
}

func (m Mismatch) String() string {
	at := ""
	if m.File != "" {
		at = fmt.Sprintf(" (%s line %d)", m.File, m.Line)
	}
	switch {
	case m.Option == "include" && m.File == "":
		return "its entry is missing: " + m.Want
	case m.Option == "include" && m.Line > 0:
		return fmt.Sprintf("ssh does not read its entry %s: the Include on line %d of %s belongs to the Host or Match above it", m.Want, m.Line, m.File)
	case m.Option == "include":
		return fmt.Sprintf("ssh does not read its entry %s: %s does not include it", m.Want, m.File)
	case m.Option == "requiredrsasize":
		return fmt.Sprintf("your ssh configuration accepts only RSA keys of %s bits%s, and the VM's has %s", m.Got, at, m.Want)
	case m.Want == "":
		return fmt.Sprintf("your ssh configuration adds %s %s%s", m.Option, m.Got, at)
	}
	return fmt.Sprintf("%s is %s, not %s%s", m.Option, short(orNone(m.Got)), short(m.Want), at)
}

// short cuts a list of algorithms.
func short(s string) string {
	if first, _, more := strings.Cut(s, ","); more && len(s) > 60 {
		return first + ",..."
	}
	return s
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// accumulated lists the options that ssh collects from all matching blocks. A stanza cannot
// disable the user's values of them ("SendEnv -*" does not either).
var accumulated = []string{
	"identityfile", "certificatefile", "sendenv", "setenv",
	"remoteforward", "localforward", "dynamicforward",
}

// unpinned lists the options that the stanza does not set, because editors fail with them, and
// that break or change the alias if the user's "Host *" sets them.
var unpinned = []string{"requesttty", "remotecommand"}

// Elsewhere reports whether the option decides which machine and account the alias leads to,
// or how that machine is recognized. It only differs if ssh does not read the stanza, reads
// another value first, or the stanza was changed. ssh must not be used over the alias then.
func (m Mismatch) Elsewhere() bool {
	return m.Option == "include" || slices.Contains(deciding(), m.Option)
}

// deciding returns the options of the stanza that Elsewhere is about.
func deciding() []string {
	out := []string{"hostname", "port", "user", "userknownhostsfile", "hostkeyalias"}
	for _, kv := range pinned {
		if !slices.Contains(addedPins, kv[0]) {
			out = append(out, strings.ToLower(kv[0]))
		}
	}
	return out
}

// defaults lists values that work as well as those of the stanza: an entry of an earlier aivm
// leaves them to ssh. Its other defaults are the values of the stanza.
var defaults = map[string]string{"addressfamily": "any", "bindaddress": ""}

// Added reports whether the option is one that ssh collects from all blocks, so that the
// alias works with it.
func (m Mismatch) Added() bool { return slices.Contains(accumulated, m.Option) && m.Want == "" }

// Verify compares the options ssh uses for the alias with those of the stanza alone. Both
// are printed by the same ssh, so differences between releases in how values are spelled do
// not matter. Whether the stanza file is up to date does not matter either: what ssh makes of
// the alias is compared. It starts two processes that take some milliseconds. ssh executes
// the user's "Match exec" commands for it, as for every connection.
func Verify(ctx context.Context, l Layout, alias string, want Stanza, run Runner) ([]Mismatch, error) {
	if run == nil {
		run = Exec
	}
	if err := ValidAlias(alias); err != nil {
		return nil, err
	}
	opts, err := want.options()
	if err != nil {
		return nil, err
	}
	if err := l.Guarded(); err != nil {
		return nil, err
	}
	missing := func() []Mismatch {
		own := l.ConfPath(alias)
		if f, err := readFile(own); err == nil && !f.Exists {
			return []Mismatch{{Option: "include", Want: own, Hint: "run the command again: the file was removed"}}
		}
		line, _ := l.IncludeLine()
		return []Mismatch{{
			Option: "include", Want: own, File: l.sshConfig(), Line: l.includedAt(), Hint: "the first line of " + l.sshConfig() + " should be: " + line,
		}}
	}
	if f, err := readFile(l.sshConfig()); err == nil && !f.Exists && len(l.SSHArgs()) > 0 {
		return missing(), nil // ssh -F fails if there is no file
	}
	args := []string{"-F", "none"}
	for _, kv := range opts {
		args = append(args, "-o", kv[0]+" "+kv[1])
	}
	var ref map[string][]string
	var refErr error
	var wg sync.WaitGroup
	wg.Go(func() { ref, refErr = effective(ctx, run, args, alias) })
	got, err := effective(ctx, run, l.SSHArgs(), alias)
	wg.Wait()
	if err != nil {
		var e *ui.Error
		if c, cerr := readFile(l.sshConfig()); cerr == nil && bytes.HasPrefix(c.Data, bom) && errors.As(err, &e) {
			// ssh could not read the file before aivm's change either; aivm keeps the mark,
			// as it keeps all other bytes.
			e.Hint(ui.Remark(l.sshConfig() + " begins with a byte order mark, which OpenSSH does not accept; save the file as UTF-8 without it"))
		}
		return nil, err
	}
	if refErr != nil {
		return nil, refErr
	}
	ignored := true
	for _, k := range []string{"hostname", "userknownhostsfile", "hostkeyalias"} {
		ignored = ignored && !slices.Equal(ref[k], got[k])
	}
	if ignored {
		return missing(), nil
	}
	ds := l.directives(alias)
	return append(compare(ref, got, alias, ds), smallKeys(want, got, alias, ds)...), nil
}

// includedAt returns the number of the first line of the user's configuration that is an
// Include of this store's files; 0 if there is none.
func (l Layout) includedAt() int {
	f, err := readFile(l.sshConfig())
	if err != nil {
		return 0
	}
	in := l.storeIn(f.Data)
	for i, x := range splitLines(f.Data) {
		if in.isOwnInclude(x.text) || l.hasUnmarkedInclude([]line{x}) {
			return i + 1
		}
	}
	return 0
}

// effective runs "ssh -G" and returns the values it prints, by option in lower case.
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
		message := ui.CleanTo(strings.TrimSpace(string(stderr)), 500)
		return nil, ui.Failed("%s failed: %w: %s", strings.Join(argv, " "), err, message).
			Hint(ui.Remark("ssh cannot read its own configuration; fix the line that the message names"))
	}
	m := map[string][]string{}
	for l := range strings.Lines(string(out)) {
		k, v, _ := strings.Cut(strings.TrimRight(l, "\r\n"), " ")
		if v == "none" && k != "canonicaldomains" {
			continue // some ssh releases print "none", others leave the option out
		}
		m[strings.ToLower(k)] = append(m[strings.ToLower(k)], v)
	}
	return m, nil
}

// compare returns the mismatches between ref, the options of the stanza file alone, and got,
// the options ssh uses.
func compare(ref, got map[string][]string, alias string, ds []directive) []Mismatch {
	var ms []Mismatch
	single := deciding()
	for _, k := range addedPins {
		single = append(single, strings.ToLower(k))
	}
	for _, k := range append(single, unpinned...) {
		w, g := strings.Join(ref[k], ", "), strings.Join(got[k], ", ")
		if d, ok := defaults[k]; w == g || ok && d == g {
			continue
		}
		m := Mismatch{Option: k, Want: orNone(w), Got: g}
		m.locate(ds, alias, 0)
		ms = append(ms, m)
	}
	for _, k := range accumulated {
		extra := 0
		for _, v := range without(got[k], ref[k]) {
			if !harmlessEnv(k, v) {
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

// without returns a without the elements of b; each element of b removes one of a.
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

// harmlessEnv reports whether the option only sends variables for language and terminal,
// which Debian's /etc/ssh/ssh_config sends to every host.
func harmlessEnv(option, value string) bool {
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

// locate sets File and Line to the line the option comes from: one with the same value, else
// the nth line that may apply, since ssh prints collected values in the order it reads them.
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
		m.Hint = "find where " + what + " is set: ssh -vG " + alias
		return
	}
	m.File, m.Line = hit.file, hit.line
	m.Hint = fmt.Sprintf("exclude this VM from line %d of %s: put the line below a Host line such as \"Host * !%s\"", hit.line, hit.file, alias)
}
