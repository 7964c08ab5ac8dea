package record

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/root/mountinfo"
	"aivm.dev/aivm/internal/wall"
)

// helper simulates the privileged helper: it notes each record and changes the facts as root would.
type helper struct{ w *world }

func (h helper) Do(_ context.Context, op root.Op, _ root.Progress) (root.Result, error) {
	w, m := h.w, h.w.machine
	b, err := json.Marshal(op)
	if err != nil {
		return root.Result{}, err
	}
	text := fmt.Sprintf("{%q: %s}", op.Kind(), b)
	if n, ok := op.(root.Nft); ok {
		if n.Remove {
			text += "\n" + indent(wall.Removal(n.Wall))
		} else {
			text += "\n" + indent(wall.Script(n.Wall, m.local))
		}
	}
	w.note(sectionRoot, text)
	if err := w.rootErr[op.Kind()]; err != nil {
		return root.Result{}, err
	}
	switch o := op.(type) {
	case root.Export:
		if !slices.Contains(w.exports, o.VMKey) {
			w.exports = append(w.exports, o.VMKey)
		}
	case root.Bind:
		w.unbind(o.VMKey, o.Token)
		w.binds = append(w.binds, o)
	case root.Unbind:
		if !o.Forget {
			w.unbind(o.VMKey, o.Token)
		}
	case root.Unexport:
		w.exports = slices.DeleteFunc(w.exports, func(k string) bool { return k == o.VMKey })
	case root.Packages:
		m.execs = allPrograms
		for _, f := range []string{"/run/libvirt/libvirt-sock", "/run/libvirt/virtlogd-sock", "/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/lib/EXTLINUX/gptmbr.bin"} {
			m.files[f] = ""
		}
		m.libvirtStopped = false
	case root.Service:
		m.libvirtStopped, m.dial = false, map[string]error{}
		m.files["/run/libvirt/libvirt-sock"] = ""
	case root.KVMDevice, root.KVMModule:
		m.kvm = nil
	case root.Hooks:
		m.hooksCurrent, m.hooksInstalled = !o.Remove, !o.Remove
	case root.Nft:
		uuid := ""
		if n := w.virt.networkNamed(o.Wall.Network); n != nil {
			uuid = uuidText(n.uuid)
		}
		m.applyNft(o, uuid)
	case root.LibvirtSocket:
		f, err := w.socket()
		return root.Result{File: f}, err
	case root.Ruleset:
		return result(m.ruleset)
	case root.BuildImage:
		return result(string(imageBytes("built " + o.Distro)))
	}
	return root.Result{}, nil
}

func (h helper) Close() error { return nil }

// result returns an open memfd with this content.
func result(text string) (root.Result, error) {
	fd, err := unix.MemfdCreate("record", unix.MFD_CLOEXEC)
	if err != nil {
		return root.Result{}, err
	}
	f := os.NewFile(uintptr(fd), "record")
	if _, err := f.WriteString(text); err != nil {
		return root.Result{}, err
	}
	_, err = f.Seek(0, 0)
	return root.Result{File: f}, err
}

// socket returns a connected socket of the simulated libvirtd, as the helper opens it for a user.
func (w *world) socket() (*os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	server := os.NewFile(uintptr(fds[1]), "libvirtd")
	c, err := net.FileConn(server)
	_ = server.Close()
	if err != nil {
		return nil, err
	}
	w.serving.Go(func() { w.virt.serve(c) })
	return os.NewFile(uintptr(fds[0]), "libvirt"), nil
}

func (w *world) unbind(key, token string) {
	w.binds = slices.DeleteFunc(w.binds, func(b root.Bind) bool { return b.VMKey == key && b.Token == token })
}

// mountTable returns /proc/self/mountinfo of the host: the file system of this test's directory, and
// the mounts that the helper made.
func (w *world) mountTable() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n", mountID(top))
	b.WriteString("22 1 0:21 / /proc rw,relatime - proc proc rw\n23 1 0:22 / /sys rw,relatime - sysfs sysfs rw\n")
	id := 900
	exports := map[string]int{}
	for _, key := range w.exports {
		id++
		exports[key] = id
		d := root.ExportRoot(key)
		fmt.Fprintf(&b, "%d 1 254:0 %s %s ro,nosuid,nodev,noexec,relatime shared:%d - ext4 /dev/vda rw\n", id, d, d, id)
	}
	for _, o := range w.binds {
		id++
		how := "rw"
		if o.RO {
			how = "ro"
		}
		fmt.Fprintf(&b, "%d %d 254:0 %s %s/%s %s,nosuid,nodev,relatime,idmapped shared:%d - ext4 /dev/vda rw\n",
			id, exports[o.VMKey], mountinfo.Escape(o.Src), root.ExportRoot(o.VMKey), o.Token, how, id)
	}
	return b.String()
}

func mountID(path string) int {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_MNT_ID, &st); err != nil {
		panic(err)
	}
	return int(st.Mnt_id)
}
