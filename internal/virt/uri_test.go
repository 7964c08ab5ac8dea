package virt

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestParseURI(t *testing.T) {
	const own = "qemu+unix:///system?socket="
	for in, want := range map[string]string{
		"qemu:///system":                                 SystemURI,
		"qemu+unix:///system":                            SystemURI,
		"qemu:///system?socket=/run/x/libvirt-sock":      own + "/run/x/libvirt-sock",
		"qemu+unix:///system?socket=/run/x/libvirt-sock": own + "/run/x/libvirt-sock",
		own + "/a_b/c-1.2@3:4+5,6":                       own + "/a_b/c-1.2@3:4+5,6",
		own + "/" + strings.Repeat("x", maxSocket-1):     own + "/" + strings.Repeat("x", maxSocket-1),
	} {
		u, err := ParseURI(in)
		if err != nil || u.String() != want || u.Own() != (want != SystemURI) {
			t.Errorf("%s: %s, %v", in, u, err)
		}
		if again, err := ParseURI(u.String()); err != nil || again != u {
			t.Errorf("%s is parsed as %s, %v", u, again, err)
		}
	}
	for in, want := range map[string]string{
		"":                                      "must be qemu:///system",
		"qemu":                                  "must be qemu:///system",
		"qemu:///session":                       "must be the system's libvirt",
		"qemu+unix:///session?socket=/run/x":    "must be the system's libvirt",
		"qemu://host/system":                    "other machines",
		"qemu+ssh://root@host/system":           "other machines",
		"qemu+tls:///system":                    "other machines",
		"qemu+ext:///system?command=/tmp/x":     "other machines",
		"qemu+unix://host/system?socket=/x":     "other machines",
		"qemu+unix:///system/?socket=/x":        "other machines",
		"QEMU:///system":                        "other drivers",
		"xen:///system":                         "other drivers",
		"lxc:///":                               "other drivers",
		"test:///default":                       "other drivers",
		" qemu:///system":                       "other drivers",
		"qemu:///system\n":                      "other drivers",
		"qemu:///system?":                       "nothing but socket=",
		"qemu:///system?mode=direct":            "nothing but socket=",
		"qemu:///system?no_verify=1&socket=/x":  "nothing but socket=",
		"qemu:///system?socket=":                "absolute path",
		"qemu:///system?socket=/":               "absolute path",
		"qemu:///system?socket=x":               "absolute path",
		"qemu:///system?socket=/x&mode=direct":  "absolute path",
		"qemu:///system?socket=/x?y":            "absolute path",
		"qemu:///system?socket=/x#y":            "absolute path",
		"qemu:///system?socket=/%2e%2e/x":       "absolute path",
		"qemu:///system?socket=/run/../x":       "absolute path",
		"qemu:///system?socket=/run//x":         "absolute path",
		"qemu:///system?socket=/run/x/":         "absolute path",
		"qemu:///system?socket=/a b":            "absolute path",
		"qemu:///system?socket=/a\x00b":         "absolute path",
		"qemu:///system?socket=/a\nb":           "absolute path",
		"qemu:///system?socket=/x\n":            "absolute path",
		"qemu:///system?socket=/x'; rm -r /; '": "absolute path",
		"qemu:///system?socket=/" + strings.Repeat("x", maxSocket): "absolute path",
	} {
		if u, err := ParseURI(in); err == nil || !strings.Contains(err.Error(), want) || u != (URI{}) {
			t.Errorf("%q: %v, %v", in, u, err)
		}
	}
}

func TestVirsh(t *testing.T) {
	own, err := ParseURI("qemu:///system?socket=/run/x")
	if err != nil {
		t.Fatal(err)
	}
	for u, want := range map[URI]string{
		{}:  "virsh -c qemu:///system console a",
		own: "virsh -c 'qemu+unix:///system?socket=/run/x' console a",
	} {
		if got := u.Virsh("console ") + "a"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// proxySocket returns the URI of a socket that forwards to the host's libvirt.
func proxySocket(t *testing.T) URI {
	t.Helper()
	dir, err := os.MkdirTemp("", "aivm-uri-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("unix", URI{}.Socket())
			if err != nil {
				_ = in.Close()
				continue
			}
			go func() { _, _ = io.Copy(out, in); _ = out.Close() }()
			go func() { _, _ = io.Copy(in, out); _ = in.Close() }()
		}
	}()
	u, err := ParseURI("qemu+unix:///system?socket=" + path)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// Objects read over another socket carry its URI, and the virsh command line in hints works
// with it.
func TestDialAnotherSocket(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	u := proxySocket(t)
	name, dir := newPool(t)
	if err := daemon(t).EnsurePool(ctx, name, dir); err != nil {
		t.Fatal(err)
	}
	c, err := Dial(ctx, u)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if p, err := c.PoolAt(ctx, dir); err != nil || p.Name != name || p.Libvirt != u {
		t.Errorf("%+v, %v", p, err)
	}
	if p, err := daemon(t).PoolAt(ctx, dir); err != nil || p.Libvirt != (URI{}) {
		t.Errorf("%+v, %v", p, err)
	}
	desc := filepath.Join(t.TempDir(), "domain.xml")
	if err := os.WriteFile(desc, []byte("<domain type='qemu'><name>"+name+"</name><memory>65536</memory><os><type arch='x86_64'>hvm</type></os></domain>"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(ctx, "sh", "-c", u.Virsh("define ")+desc).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	defer func() { _ = exec.Command("virsh", "-c", SystemURI, "undefine", name).Run() }()
	if d, err := c.Domain(ctx, name); err != nil || d.Libvirt != u {
		t.Errorf("%+v, %v", d, err)
	}
	out, err := exec.CommandContext(ctx, "sh", "-c", u.Virsh("pool-info ")+name).CombinedOutput()
	if err != nil || !strings.Contains(string(out), name) {
		t.Errorf("%s: %v\n%s", u.Virsh("pool-info"), err, out)
	}
}

func TestDialNoDaemon(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	u, err := ParseURI("qemu:///system?socket=" + path)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := Dial(t.Context(), u); !errors.Is(err, ErrNoDaemon) || !strings.Contains(err.Error(), path) {
		t.Errorf("%v, %v", c, err)
	}
}
