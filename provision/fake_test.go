package provision

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/root/mountinfo"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/image"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/sshcfg"
)

// world is an Env of a person with the VM "t", on a machine whose libvirt
// refuses him, whose mount table has more lines than are true, and where root
// only writes down what it is asked for.
type world struct {
	*Env
	t        *testing.T
	dir      string
	out, err bytes.Buffer
	binds    string // lines after the real mount table
	ops      []root.Op
	rootErr  error
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: dir}
	at := func(name string) string { return filepath.Join(dir, name) }
	w.Env = &Env{
		StorePath: at("config.toml"), Home: at("home"), UID: 4321, GID: 4321, Getenv: func(string) string { return "" }, Rerun: "aivm x",
		UI: &ui.Streams{In: strings.NewReader(""), Out: &w.out, Err: &w.err}, Host: host.OSEnv(), Cache: image.Cache{Dir: at("cache")},
		SSH:      sshcfg.Layout{Home: at("home"), ConfigDir: at("conf/ssh"), StateDir: at("state"), SSHConfigPath: at("ssh_config"), SystemConfig: at("system")},
		DialVirt: func(context.Context) (*virt.Conn, error) { return nil, virt.ErrDenied },
		Root:     w,
	}
	head := w.Host.Head
	w.Host.Head = func(path string, limit int) ([]byte, error) {
		b, err := head(path, limit)
		if path == mountinfo.Self {
			b = append(b, w.binds...)
		}
		return b, err
	}
	w.records()
	w.bind("", "shared:9999 - tmpfs none rw")
	return w
}

// records writes a store with the VM and these folders of it.
func (w *world) records(folders ...string) {
	w.t.Helper()
	const vm = "schema_version = 5\n[[networks]]\nname = \"n\"\n[networks.network]\nname = \"n\"\n[[vms]]\nname = \"t\"\nnetwork_name = \"n\"\n[vms.vm]\nname = \"t\"\n"
	b := []byte(vm)
	for _, f := range folders {
		b = fmt.Appendf(b, "[[attachments]]\nhost_path = %q\nvm_name = \"t\"\nmode = \"shared-root\"\naccess = \"rw\"\nguest_dst = %[1]q\n", f)
	}
	if err := os.WriteFile(w.StorePath, b, 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// folder makes a folder of the host.
func (w *world) folder(name string) string {
	w.t.Helper()
	p := filepath.Join(w.dir, name)
	if err := os.MkdirAll(p, 0o755); err != nil {
		w.t.Fatal(err)
	}
	return p
}

// bind adds the export root (token ""), or a token on it, to the mount table.
func (w *world) bind(token, rest string) {
	if token == "" {
		w.binds += "900000 1 0:999 / " + root.ExportRoot("4321-t") + " ro " + rest + "\n"
		return
	}
	w.binds += fmt.Sprintf("%d 900000 %s\n", 900001+strings.Count(w.binds, "\n"), strings.Replace(rest, "TOKEN", root.ExportRoot("4321-t")+"/"+token, 1))
}

// share adds the bind of a folder, as root makes it, to the mount table.
func (w *world) share(folder, options string) {
	w.t.Helper()
	hf, err := share.ObserveHost("0-x", []share.Attachment{{HostPath: folder}}, nil)
	f := hf.Folders[folder]
	if err != nil || f.Err != nil {
		w.t.Fatal(err, f.Err)
	}
	w.bind(share.Token(folder), fmt.Sprintf("%s %s TOKEN %s - %s none rw", f.MountDev, mountinfo.Escape(f.MountRoot), options, f.Type))
}

func (w *world) Do(_ context.Context, op root.Op, _ root.Progress) (root.Result, error) {
	w.ops = append(w.ops, op)
	return root.Result{}, w.rootErr
}

func (w *world) Close() error { return nil }

// fakeGuest answers every probe for folders with share, and notes scripts.
type fakeGuest struct {
	guest.Conn
	share   string
	scripts []string
}

func (g *fakeGuest) Probe(_ context.Context, ps []guest.Probe) (map[string][]byte, error) {
	out := map[string][]byte{}
	for _, p := range ps {
		switch p.Name {
		case "share":
			out[p.Name] = []byte(g.share)
		default:
			out[p.Name] = []byte("end\n")
		}
	}
	return out, nil
}

func (g *fakeGuest) Run(_ context.Context, c guest.Cmd) (int, error) {
	var b bytes.Buffer
	_, err := b.ReadFrom(c.Stdin)
	g.scripts = append(g.scripts, b.String())
	return 0, err
}

func (g *fakeGuest) Close() error { return nil }

// says is a guest's answer: each folder mounted at its own path, with this owner.
func says(t *testing.T, owner int, folders ...string) string {
	t.Helper()
	var mounts, dirs, pass string
	seen := map[string]bool{}
	for _, f := range folders {
		var st unix.Stat_t
		if err := unix.Stat(f, &st); err != nil {
			t.Fatal(err)
		}
		mounts += fmt.Sprintf("41 27 0:31 /%s %s rw - virtiofs %s rw\n", share.Token(f), f, share.FSTag)
		dirs += fmt.Sprintf("41ed %d %d %[2]d %s\n", st.Ino, owner, f)
		pass += f + "\n"
		for d := filepath.Dir(f); d != "/" && !seen[d]; d = filepath.Dir(d) {
			seen[d] = true
			dirs += "41ed 1 0 0 " + d + "\n"
			pass += d + "\n"
		}
	}
	return "aivm-share 2\n" + mounts + "aivm-share dirs\n" + dirs + "aivm-share pass\n" + pass + "aivm-share same\naivm-share list\naivm-share end\n"
}
