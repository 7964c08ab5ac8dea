package record

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"aivm.dev/aivm/cmd"
	"aivm.dev/aivm/internal/editor"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision"
	"aivm.dev/aivm/provision/network"
	"aivm.dev/aivm/sshcfg"
)

// All files are below one fixed directory, because digests, tokens and column widths depend on paths.
// Concurrent runs of these tests wait for a lock.
const (
	top          = "/tmp/aivm-record"
	homeDir      = top + "/home"
	guestHome    = top + "/guest/home"
	binDir       = top + "/bin"
	calls        = top + "/calls"
	imageFile    = top + "/image.qcow2"
	oldWorldsDir = top + ".old"
	// uid is the simulated user's, independent of the user who runs the tests.
	uid = 4321
)

var (
	realPath  = os.Getenv("PATH")
	oldWorlds int // number of directories moved to oldWorldsDir
)

func TestMain(m *testing.M) {
	os.Exit(func() int {
		// Without O_CREATE first: sysctl fs.protected_regular forbids O_CREATE on another user's file
		// in a sticky directory.
		f, err := os.Open(top + ".lock")
		if errors.Is(err, fs.ErrNotExist) {
			f, err = os.OpenFile(top+".lock", os.O_RDONLY|os.O_CREATE, 0o644)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer f.Close()
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		for _, d := range []string{top, oldWorldsDir} {
			if err := os.RemoveAll(d); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
			defer os.RemoveAll(d)
		}
		if err := os.Mkdir(oldWorldsDir, 0o755); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer func() { _ = os.Chdir("/") }()
		debug.SetGCPercent(800)
		os.Clearenv()
		time.Local = time.UTC
		syscall.Umask(0o022)
		for k, v := range map[string]string{
			"HOME": homeDir, "PATH": binDir, "USER": "u", "LANG": "C.UTF-8", "TERM": "dumb", "TZ": "UTC",
			"XDG_CONFIG_HOME": homeDir + "/.config", "XDG_STATE_HOME": homeDir + "/.local/state", "XDG_CACHE_HOME": homeDir + "/.cache",
			"XDG_RUNTIME_DIR": top + "/run", "GIT_CONFIG_NOSYSTEM": "1",
			// No connection to the network works.
			"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9",
		} {
			_ = os.Setenv(k, v)
		}
		return m.Run()
	}())
}

type section int

const (
	sectionRoot section = iota
	sectionVirt
	sectionGuest
	sectionConcurrent
	sections
)

// world is the simulated host, with its user, in which a command runs.
type world struct {
	t       *testing.T
	machine *machine
	virt    *libvirtd
	guests  map[string]*guestVM
	binds   []root.Bind
	exports []string
	rootErr map[string]error // by kind of record
	serving sync.WaitGroup
	editors []string // commands of installed editors
	tty     bool
	answers string // stdin: what the user types
	args    []string
	cwd     string

	mu    sync.Mutex
	shown map[string]bool // scripts that were noted in full already
	notes [sections][]string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	// The previous directory is renamed and removed at the end, because ext4 is slow in reusing inodes
	// that were freed just before.
	oldWorlds++
	if err := os.Rename(top, fmt.Sprintf("%s/%d", oldWorldsDir, oldWorlds)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	w := &world{t: t, machine: newMachine(), guests: map[string]*guestVM{}, shown: map[string]bool{}, rootErr: map[string]error{}, editors: []string{"code"}, cwd: homeDir}
	w.virt = newLibvirtd(func(what, text string) {
		if text != "" {
			what += "\n" + indent(strings.TrimSpace(text))
		}
		w.note(sectionVirt, what)
	})
	for _, d := range []string{homeDir, homeDir + "/.ssh", guestHome, binDir, top + "/run"} {
		w.dir(d)
	}
	w.must(os.Chmod(homeDir+"/.ssh", 0o700))
	w.write(homeDir+"/.ssh/id_ed25519", privateKey, 0o600)
	w.write(homeDir+"/.ssh/id_ed25519.pub", publicKey, 0o644)
	w.write(imageFile, string(imageBytes("image")), 0o644)
	w.write(binDir+"/ssh", fakeSSH, 0o755)
	w.write(binDir+"/qemu-img", fakeQemuImg, 0o755)
	if git, err := lookReal("git"); err == nil {
		w.must(os.Symlink(git, binDir+"/git"))
	}
	for _, name := range []string{"code", "codium", "cursor", "xdg-open", "sudo"} {
		w.write(binDir+"/"+name, "#!/bin/sh\nl='"+name+"'\nfor a; do l=\"$l [$a]\"; done\nprintf '%s\\n' \"$l\" >>"+calls+
			"\n[ \"$*\" != --list-extensions ] || echo ms-vscode-remote.remote-ssh\nexit 0\n", 0o755)
	}
	return w
}

// lookReal finds a program of the real host.
func lookReal(name string) (string, error) {
	for _, d := range filepath.SplitList(realPath) {
		p := filepath.Join(d, name)
		if st, err := os.Stat(p); err == nil && st.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", exec.ErrNotFound
}

// fakeQemuImg is a substitute for qemu-img: it copies imageFile to its last argument.
const fakeQemuImg = `#!/bin/sh
l=qemu-img
for a; do l="$l [$a]" last=$a; done
printf '%s\n' "$l" >>` + calls + `
PATH=/usr/bin:/bin
exec cp ` + imageFile + ` "$last"
`

// fakeSSH is a substitute for ssh: it logs its arguments. With -G it prints the options in the VM's
// configuration file.
const fakeSSH = `#!/bin/sh
l=ssh
for a; do l="$l [$a]" last=$a; done
printf '%s\n' "$l" >>` + calls + `
case " $* " in *" -G "*) ;; *) exit 0 ;; esac
f=$XDG_CONFIG_HOME/aivm/ssh/$last.conf
[ -r "$f" ] || exit 0
while read -r k v; do
	case $k in
	HostName) k=hostname ;;
	Port) k=port ;;
	User) k=user ;;
	IdentityFile) k=identityfile ;;
	UserKnownHostsFile) k=userknownhostsfile ;;
	*) continue ;;
	esac
	printf '%s %s\n' "$k" "$v"
done <"$f"
`

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) dir(p string) string {
	w.t.Helper()
	w.must(os.MkdirAll(p, 0o755))
	return p
}

func (w *world) write(p, text string, mode os.FileMode) {
	w.t.Helper()
	w.dir(filepath.Dir(p))
	w.must(os.WriteFile(p, []byte(text), mode))
	w.must(os.Chmod(p, mode))
}

func (w *world) read(p string) string {
	w.t.Helper()
	b, err := os.ReadFile(p)
	w.must(err)
	return string(b)
}

// edit replaces text in a file.
func (w *world) edit(p, from, to string) {
	w.t.Helper()
	s := w.read(p)
	if !strings.Contains(s, from) {
		w.t.Fatalf("%s has no %q:\n%s", p, from, s)
	}
	w.must(os.WriteFile(p, []byte(strings.Replace(s, from, to, 1)), 0o600))
}

func (w *world) note(s section, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.notes[s] = append(w.notes[s], strings.TrimRight(text, "\n"))
}

// reserveNote adds an empty note, which fillNote replaces later, and returns its index.
func (w *world) reserveNote(s section) (at int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.notes[s] = append(w.notes[s], "")
	return len(w.notes[s]) - 1
}

func (w *world) fillNote(s section, at int, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.notes[s][at] = strings.TrimRight(text, "\n")
}

func (w *world) seams() *provision.Seams {
	m := w.machine
	lookPath := func(name string) (string, error) {
		base := filepath.Base(name)
		if name == base && slices.Contains(w.editors, base) {
			return binDir + "/" + base, nil
		}
		return "", fmt.Errorf("%q: %w", name, exec.ErrNotFound)
	}
	return &provision.Seams{
		UID: uid, GID: uid, Host: m.env(w),
		Editor: editor.Env{
			LookPath: lookPath, Stat: func(string) error { return fs.ErrNotExist }, Getenv: os.Getenv,
			Geteuid: func() int { return uid }, Environ: os.Environ,
		},
		SSH: sshcfg.Layout{
			Home: homeDir, ConfigDir: homeDir + "/.config/aivm/ssh", StateDir: homeDir + "/.local/state/aivm",
			SSHConfigPath: homeDir + "/.ssh/config", SystemConfig: top + "/ssh_config",
		},
		Root: helper{w},
		DialVirt: func(ctx context.Context, u virt.URI) (*virt.Conn, error) {
			switch {
			case m.libvirtStopped:
				return nil, virt.ErrNoDaemon
			case m.libvirtDenied:
				return nil, fmt.Errorf("%w: /run/libvirt/libvirt-sock", virt.ErrDenied)
			}
			client, server := net.Pipe()
			w.serving.Go(func() { w.virt.serve(server) })
			return virt.Adopt(ctx, client, u)
		},
		DialGuest: w.dialGuest,
		HostKeyOf: func(context.Context, string) (ssh.PublicKey, error) {
			k, _, _, _, err := ssh.ParseAuthorizedKey([]byte(hostPublic))
			return k, err
		},
		DialNet: func(context.Context, string, string) (net.Conn, error) {
			client, server := net.Pipe()
			w.serving.Go(func() {
				_, _ = server.Write([]byte("SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u7\r\n"))
				_ = server.Close()
			})
			return client, nil
		},
		Routes: func() (plan.Known[[]network.Route], []string) {
			names := []string{"lo", "eth0"}
			rs := slices.Clone(m.routes)
			for _, n := range w.virt.networks {
				if n.active {
					names = append(names, n.x.Bridge.Name)
				}
			}
			return plan.Yes(rs), names
		},
		Firewall: firewallState{m}, Now: func() time.Time { return day },
	}
}

// outcome is the result of a command.
type outcome struct {
	args     []string
	status   int
	out, err string
}

// try runs aivm with these arguments.
func (w *world) try(args ...string) outcome {
	w.t.Helper()
	w.must(os.Chdir(w.cwd))
	var out, errw lockedBuffer
	s := &ui.Streams{In: strings.NewReader(w.answers), Out: &out, Err: &errw, InTTY: w.tty, Dumb: true}
	status := cmd.Run(args, cmd.World{UI: s, Seams: w.seams()})
	w.serving.Wait()
	w.virt.mu.Lock()
	defer w.virt.mu.Unlock()
	if len(w.virt.unknown) > 0 {
		w.t.Fatalf("aivm %q: the simulated libvirtd does not implement calls %v", args, w.virt.unknown)
	}
	return outcome{args, status, out.String(), errw.String()}
}

// run runs aivm with these arguments and fails the test unless it exits 0.
func (w *world) run(args ...string) {
	w.t.Helper()
	if o := w.try(args...); o.status != 0 {
		w.t.Fatalf("aivm %q: status %d\n%s%s", args, o.status, o.out, o.err)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// resetNotes drops all notes so far, so that the golden file has only those of the case's command.
func (w *world) resetNotes() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.notes, w.shown = [sections][]string{}, map[string]bool{}
	if err := os.Remove(calls); err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.t.Fatal(err)
	}
}

// alreadyShown reports whether a script was noted in full before.
func (w *world) alreadyShown(script string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	was := w.shown[script]
	w.shown[script] = true
	return was
}
