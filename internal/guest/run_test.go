package guest

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

func TestRunPassesEverythingThrough(t *testing.T) {
	noLeaks(t)
	c := dial(t, newServer(t))
	args := []string{"printf", "%s|", "a b", "", "it's", `$HOME`, "`id`", "é\n*", `\n`, "-n", "~"}
	var out, errOut bytes.Buffer
	exit, err := c.Run(t.Context(), Cmd{Argv: args, Stdout: &out, Stderr: &errOut})
	want := "a b||it's|$HOME|`id`|é\n*|" + `\n` + "|-n|~|"
	if err != nil || exit != 0 || out.String() != want || errOut.Len() != 0 {
		t.Errorf("exit %d, %v, %q, %q", exit, err, out.String(), errOut.String())
	}

	all := make([]byte, 256*1024)
	for i := range all {
		all[i] = byte(i ^ i>>8)
	}
	out.Reset()
	exit, err = c.Run(t.Context(), Cmd{Argv: []string{"cat"}, Stdin: bytes.NewReader(all), Stdout: &out})
	if err != nil || exit != 0 || !bytes.Equal(out.Bytes(), all) {
		t.Errorf("binary: exit %d, %v, %d bytes", exit, err, out.Len())
	}
}

// TestOneSessionAtATime runs commands on a server that allows one session at a time.
func TestOneSessionAtATime(t *testing.T) {
	noLeaks(t)
	s := newServer(t)
	s.maxSessions = 1
	c := dial(t, s)
	for range 3 {
		if exit, err := c.Run(t.Context(), Cmd{Argv: []string{"true"}}); exit != 0 || err != nil {
			t.Fatal(exit, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	held := make(chan error, 1)
	go func() {
		_, err := c.Run(ctx, Cmd{Argv: []string{"sleep", "60"}})
		held <- err
	}()
	for s.execs.Load() < 4 {
		time.Sleep(10 * time.Millisecond)
	}
	var refused *ssh.OpenChannelError
	if _, err := c.Run(t.Context(), Cmd{Argv: []string{"true"}}); !errors.As(err, &refused) {
		t.Errorf("while another command runs: %v", err)
	}
	began := time.Now()
	if _, err := c.Run(t.Context(), Cmd{Argv: []string{"true"}, Spare: true}); !errors.As(err, &refused) || time.Since(began) > sessionRetryLimit/2 {
		t.Errorf("with Spare: %v after %s", err, time.Since(began))
	}
	cancel()
	if err := <-held; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if exit, err := c.Run(t.Context(), Cmd{Argv: []string{"true"}}); exit != 0 || err != nil {
		t.Error(exit, err)
	}
}

func TestRunStatus(t *testing.T) {
	noLeaks(t)
	s := newServer(t)
	c := dial(t, s)
	for _, tc := range []struct {
		argv []string
		exit int
		is   error
	}{
		{[]string{"true"}, 0, nil},
		{[]string{"sh", "-c", "exit 7"}, 7, nil},
		{[]string{"if"}, 127, nil},
		{[]string{"A=b"}, 127, nil},
		{[]string{"misbehave-signal"}, 128 + 9, nil},
		{[]string{"misbehave-hugestatus"}, 255, nil},
		{[]string{"misbehave-nostatus"}, -1, ErrNoStatus},
		{[]string{"misbehave-cut"}, -1, ErrLost},
		{[]string{"true"}, -1, ErrLost},
	} {
		exit, err := c.Run(t.Context(), Cmd{Argv: tc.argv})
		if exit != tc.exit || (tc.is == nil) != (err == nil) || !errors.Is(err, tc.is) {
			t.Errorf("%q: exit %d, %v", tc.argv, exit, err)
		}
	}
	for _, argv := range [][]string{nil, {""}, {"-x"}, {"a", "b\x00"}} {
		if _, err := c.Run(t.Context(), Cmd{Argv: argv}); err == nil || errors.Is(err, ErrLost) {
			t.Errorf("%q: %v", argv, err)
		}
	}
}

func TestRunThatLeavesInputUnread(t *testing.T) {
	noLeaks(t)
	c := dial(t, newServer(t))
	exit, err := c.Run(t.Context(), Cmd{Argv: []string{"true"}, Stdin: endless{}})
	if err != nil || exit != 0 {
		t.Errorf("exit %d, %v", exit, err)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

type failing struct{ after io.Reader }

var errDisk = errors.New("disk on fire")

func (f failing) Read(p []byte) (int, error) {
	n, err := f.after.Read(p)
	if err != nil {
		err = errDisk
	}
	return n, err
}

type full struct{ room int }

func (f *full) Write(p []byte) (int, error) {
	if f.room -= len(p); f.room < 0 {
		return 0, errDisk
	}
	return len(p), nil
}

func TestRunEndsWhenAStreamFails(t *testing.T) {
	noLeaks(t)
	c := dial(t, newServer(t))
	dir := t.TempDir()
	done := filepath.Join(dir, "done")
	// The command must not treat truncated input as complete.
	_, err := c.Run(t.Context(), Cmd{
		Argv:  []string{"sh", "-c", `cat >/dev/null && echo complete > "$1"`, "sh", done},
		Stdin: failing{strings.NewReader("half")},
	})
	if !errors.Is(err, errDisk) {
		t.Errorf("failing input: %v", err)
	}
	if _, err := os.Stat(done); err == nil {
		t.Error("the command treated half the input as all of it")
	}
	_, err = c.Run(t.Context(), Cmd{Argv: []string{"yes"}, Stdout: &full{room: 100_000}})
	if !errors.Is(err, errDisk) {
		t.Errorf("full output: %v", err)
	}
	if exit, err := c.Run(t.Context(), Cmd{Argv: []string{"true"}}); exit != 0 || err != nil {
		t.Errorf("the connection did not survive: %d, %v", exit, err)
	}
}

func TestRunIsCancelled(t *testing.T) {
	noLeaks(t)
	c := dial(t, newServer(t))
	for _, argv := range [][]string{{"sleep", "60"}, {"yes"}} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		began := time.Now()
		var out bytes.Buffer // the race detector reports a late Write to it
		_, err := c.Run(ctx, Cmd{Argv: argv, Stdout: &out, Stderr: &out})
		cancel()
		out.Reset()
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 2*time.Second {
			t.Errorf("%q after %s: %v", argv, time.Since(began), err)
		}
	}
	if exit, err := c.Run(t.Context(), Cmd{Argv: []string{"true"}}); exit != 0 || err != nil {
		t.Errorf("the connection did not survive: %d, %v", exit, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Run(ctx, Cmd{Argv: []string{"true"}}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled before: %v", err)
	}
	// The error is the cause of the cancellation, not context.Canceled.
	why := errors.New("the VM was switched off")
	ctx, cancelCause := context.WithCancelCause(t.Context())
	time.AfterFunc(50*time.Millisecond, func() { cancelCause(why) })
	if _, err := c.Run(ctx, Cmd{Argv: []string{"sleep", "60"}}); !errors.Is(err, why) || errors.Is(err, context.Canceled) {
		t.Errorf("cancelled with a cause: %v", err)
	}
}

// TestCancelWithABlockedWriter checks that a cancelled call returns although the caller's writer
// blocks.
func TestCancelWithABlockedWriter(t *testing.T) {
	noLeaks(t)
	c := dial(t, newServer(t))
	r, w := io.Pipe()
	defer r.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := c.Run(ctx, Cmd{Argv: []string{"yes"}, Stdout: w})
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 3*time.Second {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
}

func TestOneWriterForBothStreams(t *testing.T) {
	noLeaks(t)
	c := dial(t, newServer(t))
	var both bytes.Buffer
	script := "for i in $(seq 500); do echo out; echo err >&2; done"
	exit, err := c.Run(t.Context(), Cmd{Argv: []string{"sh", "-c", script}, Stdout: &both, Stderr: &both})
	if n := strings.Count(both.String(), "\n"); exit != 0 || err != nil || n != 1000 {
		t.Errorf("exit %d, %v, %d lines", exit, err, n)
	}
	type odd struct {
		io.Writer
		_ []int
	}
	if sameWriter(odd{}, odd{}) || sameWriter(nil, nil) || !sameWriter(&both, &both) {
		t.Error("sameWriter")
	}
}

func TestPutTar(t *testing.T) {
	noLeaks(t)
	c := dial(t, newServer(t))
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	body := strings.Repeat("x\x00", 100_000)
	for _, name := range []string{"a/b c", "-d"} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o640, Size: int64(len(body))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "new dir", "it's")
	if err := c.PutTar(t.Context(), dir, bytes.NewReader(buf.Bytes())); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a/b c", "-d"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != body {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	err := c.PutTar(t.Context(), dir, strings.NewReader("this is no archive"))
	var ce *CommandError
	if !errors.As(err, &ce) || ce.Stderr == "" {
		t.Errorf("garbage: %v", err)
	}
	if err := c.PutTar(t.Context(), dir, failing{bytes.NewReader(buf.Bytes()[:5000])}); !errors.Is(err, errDisk) {
		t.Errorf("failing archive: %v", err)
	}
}

func TestProbe(t *testing.T) {
	noLeaks(t)
	s := newServer(t)
	c := dial(t, s)
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	before := s.execs.Load()
	got, err := c.Probe(t.Context(), []Probe{
		{Name: "plain", Script: "echo one; echo two"},
		{Name: "nothing", Script: ""},
		{Name: "no newline", Script: "printf x"},
		{Name: "quotes", Script: `printf '%s' "it's \$5"; # a comment`},
		{Name: "binary", Script: "cat", Stdin: every},
		{Name: "stdin unread", Script: "echo ok", Stdin: bytes.Repeat([]byte("z"), 200_000)},
		{Name: "eats the script", Script: "cat; echo end"},
		{Name: "leaves", Script: "cd /; x=1; echo gone; exit 0"},
		{Name: "stayed", Script: `echo "[$x]"`},
		{Name: "here", Script: "cat <<'E'\na 'b'\nE\n"},
		{Name: "locale", Script: `echo "$LC_ALL"`},
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"plain": "one\ntwo\n", "nothing": "", "no newline": "x", "quotes": "it's $5", "binary": string(every),
		"stdin unread": "ok\n", "eats the script": "end\n", "leaves": "gone\n", "stayed": "[]\n", "here": "a 'b'\n", "locale": "C.UTF-8\n",
	} {
		if b, ok := got[name]; !ok || string(b) != want {
			t.Errorf("%s: %q, want %q", name, b, want)
		}
	}
	if n := s.execs.Load() - before; n != 1 {
		t.Errorf("%d execs", n)
	}
}

func TestProbeNamesFailedParts(t *testing.T) {
	noLeaks(t)
	c := dial(t, newServer(t))
	got, err := c.Probe(t.Context(), []Probe{
		{Name: "good", Script: "echo fine"},
		{Name: "bad", Script: "echo half; echo why >&2; exit 3"},
		{Name: "syntax", Script: "if then 'x"},
		{Name: "after", Script: "echo still"},
	})
	var pe *ProbeError
	if !errors.As(err, &pe) || pe.Exit["bad"] != 3 || pe.Exit["syntax"] == 0 || !strings.Contains(pe.Stderr, "why") {
		t.Fatalf("got %v", err)
	}
	if string(got["good"]) != "fine\n" || string(got["after"]) != "still\n" || len(got) != 2 {
		t.Errorf("got %q", got)
	}
}

func TestProbeIsBounded(t *testing.T) {
	noLeaks(t)
	s := newServer(t)
	c := dial(t, s)
	_, err := c.Probe(t.Context(), []Probe{{Name: "a", Script: "echo a"}, {Name: "flood", Script: "yes"}})
	if !errors.Is(err, ErrTooLong) || !strings.Contains(err.Error(), "flood") {
		t.Errorf("endless output: %v", err)
	}
	_, err = c.Probe(t.Context(), []Probe{{Name: "a", Script: "echo a"}, {Name: "noise", Script: "yes >&2"}})
	if !errors.Is(err, ErrTooLong) || !strings.Contains(err.Error(), "noise") {
		t.Errorf("endless stderr: %v", err)
	}
	exact := fmt.Sprintf("head -c %d /dev/zero", MaxAnswer)
	got, err := c.Probe(t.Context(), []Probe{{Name: "full", Script: exact}})
	if err != nil || len(got["full"]) != MaxAnswer {
		t.Errorf("%d bytes, %v", len(got["full"]), err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err = c.Probe(ctx, []Probe{{Name: "hang", Script: "sleep 60"}})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "hang") {
		t.Errorf("hang: %v", err)
	}
	if _, err := c.Probe(t.Context(), []Probe{{Name: "a"}, {Name: "a"}}); err == nil {
		t.Error("no error for two parts of the same name")
	}
	_, err = c.Probe(t.Context(), []Probe{{Name: "killer", Script: "kill -9 $$"}, {Name: "b"}})
	if err == nil || !strings.Contains(err.Error(), "killer") {
		t.Errorf("killed: %v", err)
	}
	go func() {
		time.Sleep(200 * time.Millisecond)
		s.cut()
	}()
	if _, err := c.Probe(t.Context(), []Probe{{Name: "cut", Script: "sleep 60"}}); !errors.Is(err, ErrLost) {
		t.Errorf("cut: %v", err)
	}
}

func TestFramesRefuseWrongMarkers(t *testing.T) {
	ps := []Probe{{Name: "a"}, {Name: "b"}}
	for name, out := range map[string]string{
		"order":        "M -1 0\nM 1 0\n",
		"twice":        "M -1 0\nM 0 0\nM 0 0\n",
		"no start":     "M 0 0\n",
		"damaged":      "M -1 0\nM x 0\n",
		"long line":    "M -1 0\nM 0 " + strings.Repeat("0", 100),
		"long noise":   strings.Repeat("n", maxNoise+100),
		"three fields": "M -1 0\nM 0 0 0\n",
	} {
		for _, chunk := range []int{1, 7, len(out)} {
			f := &frames{marker: []byte("M"), ps: ps, out: map[string][]byte{}}
			var err error
			for i := 0; i < len(out) && err == nil; i += chunk {
				_, err = f.Write([]byte(out[i:min(i+chunk, len(out))]))
			}
			if err == nil {
				t.Errorf("%s in chunks of %d was accepted", name, chunk)
			}
		}
	}
	f := &frames{marker: []byte("M"), ps: ps, out: map[string][]byte{}}
	for _, b := range []byte("motd\nM -1 0\none\nM 0 0\ntwoM 1 0\ntrailing") {
		if _, err := f.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	if string(f.out["a"]) != "one\n" || string(f.out["b"]) != "two" || f.current() != "" {
		t.Errorf("got %q", f.out)
	}
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte("motd\nMARK -1 0\none\nMARK 0 0\ntwoMARK 1 3\n"), 3)
	f.Fuzz(func(t *testing.T, out []byte, chunk int) {
		fr := &frames{marker: []byte("MARK"), ps: []Probe{{Name: "a"}, {Name: "b"}}, out: map[string][]byte{}}
		chunk = max(1, chunk&0xff)
		for i := 0; i < len(out); i += chunk {
			if _, err := fr.Write(out[i:min(i+chunk, len(out))]); err != nil {
				break
			}
		}
		if len(fr.out)+len(fr.failed.Names) != fr.next {
			t.Errorf("%d answers, %d failures, at %d", len(fr.out), len(fr.failed.Names), fr.next)
		}
	})
}
