package template

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"aivm.dev/aivm/internal/guestd"
	"aivm.dev/aivm/internal/qemu"
)

// lab is a store with a template of a real image: AIVM_TEST_IMAGE is a qcow2 image that
// aivm built. AIVM_TEST_TEMPLATES keeps the store for the next time.
func lab(t *testing.T) (Store, Template, []byte) {
	t.Helper()
	image := os.Getenv("AIVM_TEST_IMAGE")
	if image == "" {
		t.Skip("AIVM_TEST_IMAGE names no image")
	}
	path := filepath.Join(t.TempDir(), "agent")
	if built := os.Getenv("AIVM_TEST_AGENT"); built != "" {
		path = built
	} else if out, err := exec.Command("go", "build", "-o", path, "aivm.dev/aivm/internal/guestd/agent/cmd").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	agent, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	p := program(t)
	dir := os.Getenv("AIVM_TEST_TEMPLATES")
	if dir == "" {
		dir = t.TempDir()
	}
	s := Store{dir}
	k := NewKey(Wanted{Name: "default", Program: p, Accel: "tcg", MemoryMiB: 512, CPUs: 2, DiskGiB: 8, Image: image, Agent: agent})
	if tm, ok, _ := s.Find("default"); ok && len(tm.Stale(k)) == 0 {
		return s, tm, agent
	}
	return s, build(t, s, k, p, image, agent), agent
}

func program(t *testing.T) qemu.Program {
	t.Helper()
	path, err := qemu.Find()
	if err != nil {
		t.Skip(err)
	}
	p, err := qemu.Probe(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func build(t *testing.T, s Store, k Key, p qemu.Program, image string, agent []byte) Template {
	t.Helper()
	ctx := t.Context()
	d, err := s.NewDraft(ctx, k, p, image, agent)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Discard()
	if _, err := os.Stat(d.Disk()); err != nil {
		t.Error(err)
	}
	r, err := d.Start(ctx, Options{})
	if err != nil {
		t.Fatal(err)
	}
	session, err := r.Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := session.Prepare(ctx); err != nil {
		t.Fatal(err)
	}
	if err := d.Save(ctx, r); err != nil {
		t.Fatal(err)
	}
	tm, err := d.Publish(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	return tm
}

// output runs a shell command as root in a guest.
func output(ctx context.Context, s *guestd.Session, script string) (string, error) {
	var out bytes.Buffer
	p, err := s.Start(ctx, guestd.Command{Argv: []string{"/bin/sh", "-c", script}, Root: true, Stdout: &out, Stderr: &out})
	if err != nil {
		return "", err
	}
	e, err := p.Wait()
	if err == nil && e.Code != 0 {
		err = fmt.Errorf("status %d: %s", e.Code, out.String())
	}
	return strings.TrimSpace(out.String()), err
}

// start resumes a run and sets it up.
func start(ctx context.Context, s Store, tm Template, o Options) (*Running, *guestd.Session, error) {
	r, err := s.Resume(ctx, tm, o)
	if err != nil {
		return nil, nil, err
	}
	session, err := r.Connect(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err := session.Setup(ctx, guestd.Setup{Hostname: "run"}); err != nil {
		r.Close()
		return nil, nil, err
	}
	return r, session, nil
}

// TestClones resumes 20 runs in a row and four at once. All have entropy of their own,
// write to their disks, and change nothing in the template.
func TestClones(t *testing.T) {
	s, tm, _ := lab(t)
	ctx := t.Context()
	before := tm.Bytes()
	var mu sync.Mutex
	seen := map[string]bool{}
	clone := func() {
		begin := time.Now()
		r, session, err := start(ctx, s, tm, Options{})
		if err != nil {
			t.Error(err)
			return
		}
		defer r.Close()
		got, err := output(ctx, session, "head -c 16 /dev/urandom | od -An -tx1; cat /etc/machine-id; [ ! -e /var/tmp/canary ] && echo x >/var/tmp/canary && sync")
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		t.Log(time.Since(begin).Round(time.Millisecond), r.Steps)
		for line := range strings.Lines(got) {
			if seen[line] {
				t.Errorf("two runs have %s", line)
			}
			seen[line] = true
		}
	}
	for range 20 {
		clone()
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(clone)
	}
	wg.Wait()
	if after := tm.Bytes(); after != before {
		t.Errorf("the template grew from %d to %d bytes", before, after)
	}
	if ents, _ := os.ReadDir(s.Dir); len(ents) > 3 {
		t.Errorf("remaining files: %v", ents)
	}
}

// TestColdBoot boots the disk of a template, with the agent of this aivm.
func TestColdBoot(t *testing.T) {
	s, tm, agent := lab(t)
	r, err := s.Cold(t.Context(), tm, Options{Agent: append(bytes.Clone(agent), "another"...)})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	session, err := r.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Log(r.Steps)
	if err := session.Setup(t.Context(), guestd.Setup{Hostname: "run"}); err != nil {
		t.Fatal(err)
	}
	if got, err := output(t.Context(), session, "tail -c 7 /proc/1/exe"); err != nil || got != "another" {
		t.Error(got, err)
	}
}

// TestCard hot-plugs a network card: the guest has it at once, with its MTU, and a
// frame arrives.
func TestCard(t *testing.T) {
	s, tm, _ := lab(t)
	far, own, err := qemu.SocketPair("net")
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	r, session, err := start(t.Context(), s, tm, Options{NIC: &qemu.NIC{Socket: far, MAC: "52:54:00:12:34:56", MTU: 65520}})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, err := output(t.Context(), session, `for i in $(seq 100); do n=$(grep -l 52:54:00:12:34:56 /sys/class/net/*/address) && break; sleep 0.1; done
d=${n%/address}; cat $d/mtu; ip link set ${d##*/} up; ip addr add 10.0.0.2/24 dev ${d##*/}; ping -c 1 -W 1 10.0.0.1 >/dev/null 2>&1; true`)
	if err != nil || got != "65520" {
		t.Error(got, err)
	}
	_ = own.SetReadDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 64)
	if n, err := own.Read(b); err != nil || n < 4 {
		t.Error(n, err)
	}
}

// TestForeignState resumes a template whose machine is another one: QEMU must end or
// the guest be silent, never a hang.
func TestForeignState(t *testing.T) {
	s, tm, _ := lab(t)
	for name, change := range map[string]func(*Template){
		"fewer CPUs": func(tm *Template) { tm.Key.CPUs = 1 },
		"other type": func(tm *Template) { tm.Key.Machine = "pc-q35-6.0" },
		"other CPU":  func(tm *Template) { tm.Key.CPU = "qemu64" },
	} {
		other := tm
		change(&other)
		begin := time.Now()
		r, err := s.Resume(t.Context(), other, Options{})
		if err == nil {
			_, err = r.Connect(t.Context())
			r.Close()
		}
		t.Log(name, time.Since(begin).Round(time.Millisecond), err)
		var silent *Silent
		var ended *qemu.Ended
		if err != nil && !errors.As(err, &silent) && !errors.As(err, &ended) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
