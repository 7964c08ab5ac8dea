package ui

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"
)

func asking(in io.Reader) (*Streams, *bytes.Buffer) {
	s, _, errs := streams()
	s.In, s.InTTY = in, true
	return s, errs
}

func TestConfirm(t *testing.T) {
	for _, tc := range []struct {
		in  string
		def bool
		yes bool
	}{
		{"y\n", false, true},
		{"YES \r\n", false, true},
		{"n\n", true, false},
		{"\n", true, true},
		{"\n", false, false},
		{"what\nhuh\ny\n", false, true},
		{"", true, false}, // end of input: no, whatever the default is
		{"y", false, true},
	} {
		s, _ := asking(strings.NewReader(tc.in))
		if yes, err := s.Confirm(t.Context(), "continue?", tc.def); yes != tc.yes || err != nil {
			t.Errorf("%q, default %v: %v, %v", tc.in, tc.def, yes, err)
		}
	}
	s, errs := asking(strings.NewReader("maybe\ny\n"))
	if _, err := s.Confirm(t.Context(), "delete \x1b?", false); err != nil {
		t.Fatal(err)
	}
	if want := `delete \x1b? [y/N] delete \x1b? please answer y or n: `; errs.String() != want {
		t.Errorf("asked %q", errs)
	}
}

func TestNobodyToAsk(t *testing.T) {
	s, _ := asking(strings.NewReader("y\n"))
	s.InTTY = false
	_, err := s.Confirm(t.Context(), "continue?", true)
	if ExitCode(err) != ExitApproval {
		t.Errorf("got %v", err)
	}
	s, _ = asking(strings.NewReader(""))
	if _, err := s.AskLine(t.Context(), "name?"); ExitCode(err) != ExitApproval {
		t.Errorf("got %v", err)
	}
	if _, err := s.Choose(t.Context(), "which?", []string{"a"}); ExitCode(err) != ExitApproval {
		t.Errorf("got %v", err)
	}
	if _, err := s.Choose(t.Context(), "which?", nil); err == nil {
		t.Error("chose from nothing")
	}
	s, _ = asking(strings.NewReader(strings.Repeat("x", maxAnswer+2)))
	if _, err := s.AskLine(t.Context(), "name?"); ExitCode(err) != ExitUsage {
		t.Errorf("got %v", err)
	}
}

func TestChooseAsksAgain(t *testing.T) {
	s, errs := asking(strings.NewReader("0\n3\nb\n\n 2 \n"))
	n, err := s.Choose(t.Context(), "which VM?", []string{"a", "b\x1b"})
	if err != nil || n != 1 {
		t.Fatalf("%d, %v", n, err)
	}
	golden(t, "choose.txt", errs.String())
}

// AskLine and Confirm must not read bytes after the line: they are for the next reader,
// which may be a child process.
func TestReadsOneLineOnly(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.WriteString(w, "my vm \r\nrest"); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	s, _ := asking(r)
	if got, err := s.AskLine(t.Context(), "name?"); got != "my vm" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if rest, err := io.ReadAll(r); string(rest) != "rest" || err != nil {
		t.Errorf("left %q, %v", rest, err)
	}
}

func TestPromptEndsAtCtrlC(t *testing.T) {
	fileR, fileW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer fileR.Close()
	memR, memW := io.Pipe()
	defer memW.Close()
	for name, in := range map[string]io.Reader{"file": fileR, "memory": memR} {
		s, errs := asking(in)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(50*time.Millisecond, cancel)
		began := time.Now()
		_, err := s.Confirm(ctx, "continue?", true)
		if !errors.Is(err, context.Canceled) || time.Since(began) > time.Second {
			t.Errorf("%s after %s: %v", name, time.Since(began), err)
		}
		if !strings.HasSuffix(errs.String(), "\n") {
			t.Errorf("%s: the line was left open: %q", name, errs)
		}
	}
	// The cancelled read must not have consumed any input.
	if _, err := io.WriteString(fileW, "y\n"); err != nil {
		t.Fatal(err)
	}
	_ = fileW.Close()
	s, _ := asking(fileR)
	if yes, err := s.Confirm(t.Context(), "continue?", false); !yes || err != nil {
		t.Errorf("%v, %v", yes, err)
	}
}

func TestPromptHidesTheLiveLine(t *testing.T) {
	s, errs := asking(strings.NewReader("y\n"))
	s.ErrTTY = true
	task := s.Task("boot")
	if _, err := s.Confirm(t.Context(), "continue?", false); err != nil {
		t.Fatal(err)
	}
	task.Done()
	if got := visible(errs.String()); !strings.Contains(got, "<clear>continue? [y/N] ") {
		t.Errorf("got %q", got)
	}
}
