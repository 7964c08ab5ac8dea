package session

import (
	"fmt"
	"net/netip"
	"os/user"
	"slices"
	"strconv"

	"aivm.dev/aivm/internal/sockets"
	"aivm.dev/aivm/internal/ui"
)

// OpenSessions returns the programs of this machine that are connected to a VM's SSH server, so that
// a person would lose something if the VM stopped: "ssh (process 12, started by code)". That includes
// editors, which use ssh. It asks this machine's kernel and not the guest, which could deny them. A
// guest can be reached only through this machine, so that there are no others but logins at its
// console.
func (e *Session) OpenSessions(vm string) []string {
	inst, err := e.State().Instance(vm)
	if err != nil || inst == nil {
		return nil
	}
	ip, err := netip.ParseAddr(inst.Address)
	if err != nil {
		return nil
	}
	var out []string
	for _, h := range e.Connections(netip.AddrPortFrom(ip, 22)) {
		if isSession(h) {
			out = append(out, holderText(h))
		}
	}
	return out
}

// isSession reports whether somebody works over a connection. Other runs of aivm connect for a
// moment; only its ssh, and the one that serves an editor to a browser, stay.
func isSession(h sockets.Holder) bool {
	return !h.Idle && (h.Program != "aivm" || h.Listens || slices.Contains(h.Args, "ssh"))
}

// shells are the programs that only pass on who started a program: not worth a mention.
var shells = []string{"sh", "bash", "dash", "zsh", "fish", "ksh", "tcsh", "csh", "nu", "sudo", "systemd", "init", ""}

func holderText(h sockets.Holder) string {
	if h.PID == 0 {
		name := strconv.Itoa(h.UID)
		if u, err := user.LookupId(name); err == nil {
			name = u.Username
		}
		return "a program of user " + ui.Clean(name)
	}
	text := fmt.Sprintf("%s (process %d", ui.Clean(h.Program), h.PID)
	if !slices.Contains(shells, h.Parent) {
		text += ", started by " + ui.Clean(h.Parent)
	}
	return text + ")"
}
