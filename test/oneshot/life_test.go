package oneshot

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// started is an aivm run whose command has printed "up".
type started struct {
	*exec.Cmd
	errout *bytes.Buffer
	rest   io.Reader
	out    io.Closer
}

// start starts a run and waits until its command prints "up".
func start(t *testing.T, dir string, args ...string) started {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), maxRun)
	t.Cleanup(cancel)
	c := command(ctx, dir, append([]string{lab.bin, "run"}, args...)...)
	var errout bytes.Buffer
	c.Stderr = &errout
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill() })
	r := bufio.NewReader(out)
	if line, err := r.ReadString('\n'); err != nil || line != "up\n" {
		_ = c.Wait()
		t.Fatalf("%q %v %s", line, err, errout.String())
	}
	return started{c, &errout, r, out}
}

// end waits for the end of the run and returns its status.
func (s started) end(t *testing.T, within time.Duration) int {
	t.Helper()
	began := time.Now()
	_, _ = io.Copy(io.Discard, s.rest)
	_ = s.Wait()
	if took := time.Since(began); took > within {
		t.Errorf("it ended after %v, more than %v", took, within)
	}
	return s.ProcessState.ExitCode()
}

// Signals reach the command, which can end as it likes; what it wrote is there, and the VM is gone.
func TestSignals(t *testing.T) {
	for _, tc := range []struct {
		name, script string
		signal       syscall.Signal
		code         int
	}{
		{"told", `trap 'echo last >written; exit 5' INT; echo up; while :; do sleep 0.1; done`, syscall.SIGINT, 5},
		{"killed by it", `echo first >written; echo up; exec sleep 100`, syscall.SIGTERM, 143},
		{"ignores it", `trap '' HUP; echo first >written; echo up; while :; do sleep 0.1; done`, syscall.SIGHUP, 129},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := folder(t, nil)
			s := start(t, dir, "--", "sh", "-c", tc.script)
			if err := s.Process.Signal(tc.signal); err != nil {
				t.Fatal(err)
			}
			if code := s.end(t, 6*time.Second); code != tc.code {
				t.Errorf("status %d, want %d: %s", code, tc.code, s.errout)
			}
			if b, err := os.ReadFile(filepath.Join(dir, "written")); err != nil || len(b) == 0 {
				t.Errorf("%q %v", b, err)
			}
			nothingLeft(t)
		})
	}
	noRuns(t)
}

func TestTimeout(t *testing.T) {
	dir := folder(t, nil)
	s := start(t, dir, "--timeout", "10s", "--", "sh", "-c", "echo up; exec sleep 100")
	if code := s.end(t, 16*time.Second); code != 124 {
		t.Errorf("status %d: %s", code, s.errout)
	}
	nothingLeft(t)
}

// After SIGKILL of any process of a run nothing of it runs, and nothing lies on the disk.
func TestKilled(t *testing.T) {
	for _, victim := range []string{"aivm", "qemu-system", "aivm-folder-server"} {
		t.Run(victim, func(t *testing.T) {
			dir := folder(t, nil)
			s := start(t, dir, "--name", "victim", "--", "sh", "-c", "echo up; exec sleep 100")
			pid := s.Process.Pid
			if victim != "aivm" {
				pid = child(t, pid, victim)
			}
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if victim == "aivm-folder-server" { // the command continues without its folder
				time.Sleep(time.Second)
				_ = s.Process.Signal(syscall.SIGTERM)
			}
			code := s.end(t, 8*time.Second)
			if victim == "qemu-system" && code != 255 {
				t.Errorf("status %d: %s", code, s.errout)
			}
			nothingLeft(t)
			noRuns(t)
		})
	}
}

// child returns the child process of pid with a word in its command line.
func child(t *testing.T, pid int, word string) int {
	t.Helper()
	for _, p := range processes(t) {
		n, err := strconv.Atoi(strings.Fields(p)[0])
		if err != nil {
			t.Fatal(err)
		}
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(n) + "/stat")
		if err != nil {
			continue
		}
		_, after, _ := strings.Cut(string(stat), ") ")
		if f := strings.Fields(after); len(f) > 1 && f[1] == strconv.Itoa(pid) && strings.Contains(p, word) {
			return n
		}
	}
	t.Fatalf("no %s below %d: %q", word, pid, processes(t))
	return 0
}

// The list of runs, a second command in one, and its end.
func TestRuns(t *testing.T) {
	dir := folder(t, nil)
	s := start(t, dir, "--name", "work", "--", "sh", "-c", "echo up; exec sleep 100")
	if r := aivm(t, dir, "", "runs"); r.code != 0 || !strings.Contains(r.out, "work") || !strings.Contains(r.out, dir) || !strings.Contains(r.out, "sleep 100") {
		t.Errorf("%+v", r)
	}
	if r := aivm(t, dir, "", "run", "--name", "work", "--", "true"); r.code != 255 || !strings.Contains(r.errout, "named work") {
		t.Errorf("the same name: %+v", r)
	}
	r := aivm(t, dir, "in\x00put", "runs", "exec", "work", "--", "sh", "-c", "pwd; cat; hostname; pgrep -x sleep >/dev/null && echo same VM; echo err >&2; exit 9")
	if r.code != 9 || r.out != dir+"\nin\x00putwork\nsame VM\n" || r.errout != "err\n" {
		t.Errorf("%+v", r)
	}
	if r := aivm(t, dir, "", "runs", "stop", "work"); r.code != 0 {
		t.Errorf("%+v", r)
	}
	if code := s.end(t, 6*time.Second); code != 143 {
		t.Errorf("status %d: %s", code, s.errout)
	}
	nothingLeft(t)
	noRuns(t)
}

// A reader of stdout that is gone ends the run as it ends a pipeline.
func TestClosedOutput(t *testing.T) {
	dir := folder(t, nil)
	s := start(t, dir, "--", "sh", "-c", "echo up; exec yes")
	if err := s.out.Close(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	_ = s.Wait()
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it ended after %v", took)
	}
	nothingLeft(t)
	noRuns(t)
}
