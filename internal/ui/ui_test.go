package ui

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares got with testdata/name.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (-want +got):\n%s", name, d)
	}
}

func streams() (s *Streams, out, err *bytes.Buffer) {
	out, err = &bytes.Buffer{}, &bytes.Buffer{}
	return &Streams{Out: out, Err: err}, out, err
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"":                      "",
		"plain text":            "plain text",
		"äß漢字 🙂":                "äß漢字 🙂",
		"a\nb\tc\rd":            `a\nb\tc\rd`,
		"\x1b[31mred\x1b[0m\a":  `\x1b[31mred\x1b[0m\x07`,
		"\u202egpj.exe":         `\u202egpj.exe`,
		"\u2066x\u2069":         `\u2066x\u2069`,
		"zero\u200bwidth\ufeff": `zero\u200bwidth\ufeff`,
		"\u2028":                `\u2028`,
		"\u0085\u009b31m":       `\u0085\u009b31m`,
		"bad\xff\xc3":           `bad\xff\xc3`,
		"\U000e0041":            `\U000e0041`,
		"nbsp\u00a0":            `nbsp\u00a0`,
		"\x7f":                  `\x7f`,
	} {
		if got := Clean(in); got != want {
			t.Errorf("Clean(%q) = %q, want %q", in, got, want)
		}
	}
	if got := CleanLines("a\n\tb\x1b\r\n"); got != "a\n\tb"+`\x1b\r`+"\n" {
		t.Errorf("CleanLines: %q", got)
	}
	for _, tc := range []struct {
		in    string
		limit int
		want  string
	}{
		{"abc", 3, "abc"},
		{"abcd", 3, "ab…"},
		{"", 3, ""},
		{"abc", 0, ""},
		{"ab\x1b", 4, "ab…"},
		{"ab\x1b", 6, `ab\x1b`},
		{"漢字漢字", 3, "漢字…"},
		{"a\x1bcdefgh", 4, "a…"},
		{strings.Repeat("x", 1<<20), 5, "xxxx…"},
		{"\x1b", 1, "…"},
	} {
		if got := CleanTo(tc.in, tc.limit); got != tc.want {
			t.Errorf("CleanTo(%.20q, %d) = %q, want %q", tc.in, tc.limit, got, tc.want)
		}
	}
}

func FuzzClean(f *testing.F) {
	f.Add("a\x1b[0m\u202e\xff", 5)
	f.Fuzz(func(t *testing.T, s string, limit int) {
		limit = min(max(limit, 0), 200)
		if once := Clean(s); once != Clean(once) {
			t.Errorf("not stable: %q", once)
		}
		if got := CleanTo(s, limit); len([]rune(got)) > limit {
			t.Errorf("%d runes of %d", len([]rune(got)), limit)
		}
	})
}

func TestExitCode(t *testing.T) {
	for _, tc := range []struct {
		err  error
		exit int
		kind string
	}{
		{nil, 0, ""},
		{errors.New("x"), 2, "failed"},
		{Usage("x"), 1, "usage"},
		{Refused("x"), 2, "refused"},
		{fmt.Errorf("doing: %w", NeedsApproval("x")), 3, "approval"},
		{Status(42), 42, "failed"},
		{&Error{Exit: ExitSSH, Kind: "failed", Message: "x"}, 255, "failed"},
		{&Error{Message: "x"}, 2, "failed"},
		{context.Canceled, 130, "interrupted"},
		{fmt.Errorf("waiting: %w", context.Canceled), 130, "interrupted"},
		{Failed("waiting: %w", context.Canceled), 130, "interrupted"},
		{Refused("waiting: %w", context.Canceled), 2, "refused"},
		{context.DeadlineExceeded, 2, "failed"},
		{errors.Join(errors.New("x"), Usage("y")), 1, "usage"},
	} {
		if o := outcome(tc.err); o.Exit != tc.exit || o.Kind != tc.kind || ExitCode(tc.err) != tc.exit {
			t.Errorf("%v: %d %q, want %d %q", tc.err, o.Exit, o.Kind, tc.exit, tc.kind)
		}
	}
}

func TestPrintError(t *testing.T) {
	inner := Refused("subnet %q is taken", "10.0.0.0/8\x1b").Hint(Cmd("aivm list"), Remark("look at\nthe routes"))
	cases := []error{
		nil,
		Status(7),
		errors.New("plain"),
		fmt.Errorf("creating a: %w", inner),
		Failed("outer: %w", inner).Hint(Cmd("aivm vm up a"), Cmd("aivm list")),
		errors.Join(errors.New("first"), errors.New("second\n\n  third ")),
		context.Canceled,
		Failed("waiting: %w", context.Canceled).Hint(Cmd("aivm code .")),
	}
	for _, asJSON := range []bool{false, true} {
		s, out, errs := streams()
		s.JSON = asJSON
		for _, err := range cases {
			fmt.Fprintf(errs, "--- %q\n", fmt.Sprint(err))
			s.PrintError(err)
		}
		golden(t, fmt.Sprintf("errors-json-%v.txt", asJSON), errs.String())
		if out.Len() > 0 {
			t.Errorf("stdout: %q", out)
		}
	}
	s, _, errs := streams()
	s.Color = true
	s.PrintError(Refused("no").Hint(Remark("yes")))
	if want := "\x1b[31merror:\x1b[0m no\n\x1b[36mhint:\x1b[0m yes\n"; errs.String() != want {
		t.Errorf("got %q", errs)
	}
}

func TestPrintJSON(t *testing.T) {
	s, out, _ := streams()
	in := map[string]any{"p": "<a&b> \x1b\x7f\u009b\u202e\U000e0041 漢 🙂 \xff\n", "n": 1}
	if err := s.PrintJSON(in); err != nil {
		t.Fatal(err)
	}
	want := `{"n":1,"p":"<a&b> \u001b\u007f\u009b\u202e\udb40\udc41 漢 🙂 \ufffd\n"}` + "\n"
	got := strings.ReplaceAll(out.String(), "\ufffd", `\ufffd`)
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	var back map[string]any
	if err := json.Unmarshal(out.Bytes(), &back); err != nil {
		t.Fatal(err)
	}
	if back["p"] != "<a&b> \x1b\x7f\u009b\u202e\U000e0041 漢 🙂 \ufffd\n" {
		t.Errorf("came back as %q", back["p"])
	}
	s.OutTTY = true
	out.Reset()
	if err := s.PrintJSON(map[string]int{"a": 1}); err != nil || out.String() != "{\n  \"a\": 1\n}\n" {
		t.Errorf("on a terminal: %q, %v", out, err)
	}
	if err := s.PrintJSON(make(chan int)); err == nil {
		t.Error("a channel was encoded")
	}
}

func TestQuietAndJSON(t *testing.T) {
	for _, tc := range []struct {
		name             string
		quiet, json, tty bool
		out, err         string
	}{
		{"normal", false, false, false, "r\n", "s\nwarning: w\n"},
		{"quiet", true, false, false, "r\n", "warning: w\n"},
		{"json", false, true, false, "r\n", `{"schema":1,"warning":{"message":"w"}}` + "\n"},
		{"json watched", false, true, true, "r\n", "s\n" + `{"schema":1,"warning":{"message":"w"}}` + "\n"},
	} {
		s, out, errs := streams()
		s.Quiet, s.JSON, s.ErrTTY = tc.quiet, tc.json, tc.tty
		s.Say("%s", "s")
		s.Result("r\n")
		s.Warn("w")
		if out.String() != tc.out || errs.String() != tc.err {
			t.Errorf("%s: %q, %q", tc.name, out, errs)
		}
	}
	(&Streams{}).Say("no stream set")
	s := &Streams{}
	if err := s.PrintJSON(1); err != nil {
		t.Error(err)
	}
}

func TestTable(t *testing.T) {
	var b bytes.Buffer
	Table(&b, []string{"NAME", "STATE", "NOTE"}, [][]string{
		{"a", "running", "x"}, {"漢字", "off", ""}, {"evil\x1b[2J\nrow", "?", "y", "extra"}, {"short"},
	})
	Table(&b, nil, [][]string{{"no", "header"}})
	Table(&b, nil, nil)
	golden(t, "table.txt", b.String())
}

func TestDiff(t *testing.T) {
	a := []byte("one\ntwo\nthree\nfour\nfive\nsix\nseven\neight\n")
	b := []byte("Include x\none\ntwo\nthree\nfour\nfive\nsix\nSEVEN\neight")
	golden(t, "diff.txt", Diff("old", "new", a, b)+Diff("/dev/null", "new", nil, []byte("x\n")))
	if d := Diff("a", "b", a, a); d != "" {
		t.Errorf("equal files differ: %q", d)
	}
}

func TestTiming(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tm := NewTiming("image", "define", "boot")
		stop := tm.Start("boot")
		time.Sleep(50 * time.Second)
		inner := tm.Start("ssh")
		time.Sleep(2 * time.Second)
		inner()
		inner()
		time.Sleep(5200 * time.Millisecond)
		stop()
		stop = tm.Start("define")
		time.Sleep(340 * time.Millisecond)
		stop()
		time.Sleep(time.Second)
		if got, want := tm.Line(), "image 0.0 s · define 0.3 · boot 55.2 · ssh 2.0"; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		time.Sleep(5 * time.Second)
		if got, want := tm.Line(), "image 0.0 s · define 0.3 · boot 55.2 · ssh 2.0 · other 6.0"; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		if tm.Wall() != 63540*time.Millisecond {
			t.Errorf("wall %s", tm.Wall())
		}
	})
	synctest.Test(t, func(t *testing.T) {
		tm := NewTiming()
		if got := tm.Line(); got != "other 0.00 s" {
			t.Errorf("at once: %s", got)
		}
		for i := range 7 {
			stop := tm.Start(fmt.Sprint("b", i))
			time.Sleep(44 * time.Millisecond)
			stop()
		}
		// 7 x 0.044 = 0.308: rounding each figure would give 0.28, a tenth less.
		if got, want := tm.Line(), "b0 0.05 s · b1 0.05 · b2 0.05 · b3 0.04 · b4 0.04 · b5 0.04 · b6 0.04"; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	})
}

func TestTaskInPlainLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, errs := streams()
		task := s.Task("image\x1b")
		for i := range 25 {
			task.Fraction(float64(i) / 25)
			time.Sleep(100 * time.Millisecond)
		}
		task.Detail("verifying %s", "x")
		time.Sleep(21 * time.Second)
		task.Bytes(5<<20, 0)
		task.Done()
		task.Fail()
		task.Detail("late")
		task = s.Task("boot")
		time.Sleep(time.Second)
		s.Say("meanwhile")
		task.Fail()
		golden(t, "task-plain.txt", errs.String())
	})
}

func TestTaskOnATerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, errs := streams()
		s.ErrTTY = true
		task := s.Task("boot")
		time.Sleep(time.Second + time.Millisecond)
		task.Detail("waiting for %s", strings.Repeat("a very long reason ", 10))
		time.Sleep(time.Second)
		s.Say("something\x1b happened")
		inner := s.Task("image")
		inner.Bytes(10<<20, 100<<20)
		time.Sleep(2060 * time.Millisecond)
		inner.Bytes(50<<20, 100<<20)
		time.Sleep(200 * time.Millisecond)
		inner.Done()
		resume := s.Suspend()
		again := s.Suspend()
		time.Sleep(time.Second)
		again()
		s.Say("while suspended")
		resume()
		resume()
		task.Done()
		golden(t, "task-live.txt", visible(errs.String()))
		if got, want := screen(errs.String()), "something\\x1b happened\nimage: done (2.3 s)\nwhile suspended\nboot: done (5.3 s)\n"; got != want {
			t.Errorf("left on the screen:\n%s\nwant:\n%s", got, want)
		}
	})
}

// visible puts each redraw of the live line on a line of its own.
func visible(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, "\r\x1b[K", "\n<clear>"), "\x1b", "ESC")
}

// screen returns what a terminal shows after the text and line erasures in s.
func screen(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		if at := strings.LastIndex(l, "\r\x1b[K"); at >= 0 {
			lines[i] = l[at+len("\r\x1b[K"):]
		}
	}
	return strings.Join(lines, "\n")
}

func TestTasksFromManyGoroutines(t *testing.T) {
	s, _, errs := streams()
	s.ErrTTY = true
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			task := s.Task(fmt.Sprint("task", i))
			for j := range 50 {
				task.Bytes(int64(j), 50)
				task.Detail("step %d", j)
				s.Say("line %d-%d", i, j)
			}
			task.Done()
		})
	}
	wg.Wait()
	for line := range strings.SplitSeq(strings.TrimSuffix(screen(errs.String()), "\n"), "\n") {
		if !strings.HasPrefix(line, "line ") && !strings.Contains(line, ": done (") {
			t.Fatalf("garbled: %q", line)
		}
	}
	if len(s.tasks) != 0 || s.drawn != "" {
		t.Errorf("left: %v, %q", s.tasks, s.drawn)
	}
}

func TestFitToWidth(t *testing.T) {
	for _, tc := range []struct {
		in    string
		width int
		want  string
	}{{"abc", 3, "abc"}, {"abcd", 3, "ab…"}, {"漢字漢", 4, "漢…"}, {"abc", 0, ""}, {"abc", -5, ""}, {"abc", 1, "…"}} {
		if got := fit(tc.in, tc.width); got != tc.want {
			t.Errorf("fit(%q, %d) = %q, want %q", tc.in, tc.width, got, tc.want)
		}
	}
}

func TestBound(t *testing.T) {
	var zero float64
	for in, want := range map[float64]float64{-1: 0, 0: 0, 0.5: 0.5, 1: 1, 7: 1} {
		if got := bound(in); got != want {
			t.Errorf("bound(%v) = %v", in, got)
		}
	}
	if got := bound(zero / zero); got != 0 {
		t.Errorf("bound(NaN) = %v", got)
	}
}

// errors.Is finds every cause wrapped in a message, also if there are several.
func TestCauses(t *testing.T) {
	a, b := errors.New("a"), errors.New("b")
	for _, err := range []error{Refused("x: %w", a), Failed("x: %w: %w", a, b), Usage("%w %w", b, a)} {
		if !errors.Is(err, a) {
			t.Errorf("%v does not wrap its cause", err)
		}
	}
	if err := Refused("x"); err.Err != nil {
		t.Errorf("%v has a cause", err)
	}
}
