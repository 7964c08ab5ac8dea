// Package looptest provides World, a Loop for tests of the parts.
package looptest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/root/mountinfo"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/image"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/session"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/target"
	"aivm.dev/aivm/sshcfg"
)

// World is the Loop of a user with the VM "t", on a machine where libvirt refuses the user,
// the mount table has additional lines (MountLines), and the privileged helper only records
// its requests (Ops).
type World struct {
	loop.Loop
	T          *testing.T
	Dir        string
	Out, Err   bytes.Buffer
	MountLines string // appended to the real mount table
	Ops        []root.Op
	RootErr    error
}

// New returns a World without folders, with an empty export root mounted.
func New(t *testing.T) *World {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w := &World{T: t, Dir: dir}
	at := func(name string) string { return filepath.Join(dir, name) }
	w.Session = &session.Session{
		StorePath: at("config.toml"), Home: at("home"), UID: 4321, GID: 4321, Getenv: func(string) string { return "" }, Rerun: "aivm x",
		Host: host.OSEnv(), Cache: image.Cache{Dir: at("cache")},
		SSH:      sshcfg.Layout{Home: at("home"), ConfigDir: at("conf/ssh"), StateDir: at("state"), SSHConfigPath: at("ssh_config"), SystemConfig: at("system")},
		DialVirt: func(context.Context, virt.URI) (*virt.Conn, error) { return nil, virt.ErrDenied },
		Root:     w,
	}
	w.SetStreams(&ui.Streams{In: strings.NewReader(""), Out: &w.Out, Err: &w.Err})
	w.SetDefaults()
	head := w.Host.Head
	w.Host.Head = func(path string, limit int) ([]byte, error) {
		b, err := head(path, limit)
		if path == mountinfo.Self {
			b = append(b, w.MountLines...)
		}
		return b, err
	}
	w.WriteConfig()
	w.AddMount("", "shared:9999 - tmpfs none rw")
	return w
}

// WriteConfig writes a config with the VM and these folders attached to it.
func (w *World) WriteConfig(folders ...string) {
	w.T.Helper()
	const vm = "schema_version = 5\n[[networks]]\nname = \"n\"\n[networks.network]\nname = \"n\"\n[[vms]]\nname = \"t\"\nnetwork_name = \"n\"\n[vms.vm]\nname = \"t\"\n"
	b := []byte(vm)
	for _, f := range folders {
		b = fmt.Appendf(b, "[[attachments]]\nhost_path = %q\nvm_name = \"t\"\nmode = \"shared-root\"\naccess = \"rw\"\nguest_dst = %[1]q\n", f)
	}
	if err := os.WriteFile(w.StorePath, b, 0o600); err != nil {
		w.T.Fatal(err)
	}
}

// MakeFolder creates a folder on the host and returns its path.
func (w *World) MakeFolder(name string) string {
	w.T.Helper()
	p := filepath.Join(w.Dir, name)
	if err := os.MkdirAll(p, 0o755); err != nil {
		w.T.Fatal(err)
	}
	return p
}

// AddMount adds the export root (token ""), or the mount of a token in it, to the mount table.
func (w *World) AddMount(token, rest string) {
	if token == "" {
		w.MountLines += "900000 1 0:999 / " + root.ExportRoot("4321-t") + " ro " + rest + "\n"
		return
	}
	w.MountLines += fmt.Sprintf("%d 900000 %s\n", 900001+strings.Count(w.MountLines, "\n"), strings.Replace(rest, "TOKEN", root.ExportRoot("4321-t")+"/"+token, 1))
}

// AddShare adds the bind mount of a folder, as the helper makes it, to the mount table.
func (w *World) AddShare(folder, options string) {
	w.T.Helper()
	hf, err := share.ObserveHost("0-x", []share.Attachment{{HostPath: folder}}, nil)
	f := hf.Folders[folder]
	if err != nil || f.Err != nil {
		w.T.Fatal(err, f.Err)
	}
	w.AddMount(share.Token(folder), fmt.Sprintf("%s %s TOKEN %s - %s none rw", f.MountDev, mountinfo.Escape(f.MountRoot), options, f.Type))
}

// Do records the request and returns RootErr.
func (w *World) Do(_ context.Context, op root.Op, _ root.Progress) (root.Result, error) {
	w.Ops = append(w.Ops, op)
	return root.Result{}, w.RootErr
}

// Close does nothing.
func (w *World) Close() error { return nil }

// FakeGuest answers every probe for folders with Share, and records the scripts it is to run.
type FakeGuest struct {
	guest.Conn
	Share   string
	Scripts []string
}

// Probe answers the probe for folders with g.Share, and all others with "end".
func (g *FakeGuest) Probe(_ context.Context, ps []guest.Probe) (map[string][]byte, error) {
	out := map[string][]byte{}
	for _, p := range ps {
		switch p.Name {
		case "share":
			out[p.Name] = []byte(g.Share)
		default:
			out[p.Name] = []byte("end\n")
		}
	}
	return out, nil
}

// Run records the script on stdin.
func (g *FakeGuest) Run(_ context.Context, c guest.Cmd) (int, error) {
	var b bytes.Buffer
	_, err := b.ReadFrom(c.Stdin)
	g.Scripts = append(g.Scripts, b.String())
	return 0, err
}

// Close does nothing.
func (g *FakeGuest) Close() error { return nil }

// GuestAnswer returns a guest's answer to the probe for folders: each folder is mounted at its
// own path, with this owner.
func GuestAnswer(t *testing.T, owner int, folders ...string) string {
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

// RecordOf returns the config's record of a folder attached to the VM.
func RecordOf(w *World, folder string) (config.Attachment, bool) {
	w.T.Helper()
	s, err := config.Load(w.StorePath)
	if err != nil {
		w.T.Fatal(err)
	}
	r, ok := s.Config.FindAttachment(folder, "t")
	if !ok {
		return config.Attachment{}, false
	}
	return *r, true
}

// ResetRun forgets what was read, printed and requested, as if another run began.
func ResetRun(w *World) {
	w.ResetRun()
	w.Ops, w.RootErr = nil, nil
	w.Out.Reset()
	w.Err.Reset()
}

// SavedTarget returns the Target for the recorded VM t; folder is the verb's folder, or "".
func SavedTarget(w *World, folder string) *target.Target {
	w.T.Helper()
	w.Reload()
	store, err := w.Load()
	if err != nil {
		w.T.Fatal(err)
	}
	t := &target.Target{Name: "t", Store: store}
	if folder != "" {
		t.Folder = FolderOf(folder)
	}
	return t
}

// UpdateConfig changes the config with fn.
func UpdateConfig(w *World, fn func(*config.Config)) {
	w.T.Helper()
	if err := config.Update(w.T.Context(), w.StorePath, func(c *config.Config) error { fn(c); return nil }); err != nil {
		w.T.Fatal(err)
	}
}

// FolderOf returns the attachment of a folder that is shared read-write, in mode shared-root.
func FolderOf(path string) *share.Attachment {
	return &share.Attachment{HostPath: path, VM: "t", Mode: share.SharedRoot, Access: "rw", GuestDst: path, Tag: share.Token(path)}
}

// LoopOn returns a Loop for a session, without a Runner.
func LoopOn(s *session.Session) loop.Loop { return loop.Loop{Finder: target.Finder{Session: s}} }
