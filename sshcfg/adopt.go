package sshcfg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
)

// PinnedKey returns the host key that a VM must have: the public key of the one aivm made,
// or, for an adopted VM, the one in its known_hosts file. The error wraps fs.ErrNotExist if
// there is neither.
func (l Layout) PinnedKey(vm string) (ssh.PublicKey, error) {
	hk, err := l.LoadHostKey(vm)
	if err == nil {
		return hk.Public, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	path := l.KnownHostsPath(vm)
	f, rerr := readFile(path)
	if rerr != nil {
		return nil, ui.Failed("reading the host key of %q: %w", vm, rerr)
	}
	if !f.Exists {
		return nil, err
	}
	_, _, key, _, _, perr := ssh.ParseKnownHosts(f.Data)
	if perr != nil {
		return nil, ui.Failed("reading the host key of %q in %s: %w", vm, path, perr)
	}
	return key, nil
}

// KnownKey returns the host key that the user's known_hosts has for an address, hashed or
// not: the ed25519 key if there are several, nil if there is none.
func (l Layout) KnownKey(ip string) (ssh.PublicKey, error) {
	path := filepath.Join(l.Home, ".ssh", "known_hosts")
	if l.SSHConfigPath != "" {
		// Next to the configuration file that the user named, if it exists there.
		if p := filepath.Join(filepath.Dir(l.SSHConfigPath), "known_hosts"); isFile(p) {
			path = p
		}
	}
	g := guard{layout: l}
	if f, _ := g.through(path); f != nil || !isFile(path) {
		return nil, nil // there is no file, or a guest can write it, so its keys are not trusted
	}
	check, err := knownhosts.New(path)
	if err != nil {
		return nil, ui.Failed("reading %s: %w", path, err)
	}
	// The library only compares keys. Comparing with a new key fails with an error that
	// lists the known ones.
	_, probe, err := newKey("")
	if err != nil {
		return nil, err
	}
	var ke *knownhosts.KeyError
	at := &net.TCPAddr{IP: net.ParseIP(ip), Port: 22}
	if err := check(net.JoinHostPort(ip, "22"), at, probe); !errors.As(err, &ke) {
		return nil, nil
	}
	var out ssh.PublicKey
	for _, k := range ke.Want {
		if out == nil || k.Key.Type() == ssh.KeyAlgoED25519 {
			out = k.Key
		}
	}
	return out, nil
}

func isFile(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular()
}

// PlanRemoveLegacy plans to remove the block that aivm 0.3 wrote for a VM from the user's
// configuration: its markers and the lines between them.
func PlanRemoveLegacy(f Facts, vm string) ([]plan.Action, error) {
	l, c := f.Layout, f.Config.Value
	if f.Guarded != nil {
		return nil, f.Guarded
	}
	if f.Config.Err != nil {
		return nil, l.readOnly(f.Config.Err)
	}
	out := withoutLegacy(c.Data, vm)
	if bytes.Equal(out, c.Data) {
		return nil, nil
	}
	if c.Blocked != nil {
		return nil, l.readOnly(c.Blocked)
	}
	return []plan.Action{{
		ID:      "ssh.legacy:" + vm,
		Why:     fmt.Sprintf("remove the block aivm 0.3 wrote for %s from %s", vm, c.Path),
		Shows:   writeShows(c),
		Diff:    unified(c, out),
		Consent: plan.Ask,
		Timing:  "ssh",
		Do: func(ctx context.Context) error {
			return l.edit(ctx, func(data []byte) ([]byte, error) { return withoutLegacy(data, vm), nil })
		},
	}}, nil
}

// withoutLegacy returns data without the blocks of one VM. A block without an end marker
// is kept, since it is unknown which lines belong to it.
func withoutLegacy(data []byte, vm string) []byte {
	begin, end := "# >>> aivm:"+vm+" >>>", "# <<< aivm:"+vm+" <<<"
	lines := bytes.SplitAfter(data, []byte("\n"))
	text := func(i int) string { return strings.TrimRight(string(lines[i]), "\r\n") }
	var out []byte
	for i := 0; i < len(lines); i++ {
		if text(i) == begin {
			stop := i + 1
			for stop < len(lines) && text(stop) != end && !strings.HasPrefix(text(stop), "# >>> aivm:") {
				stop++
			}
			if stop < len(lines) && text(stop) == end {
				i = stop
				continue
			}
		}
		out = append(out, lines[i]...)
	}
	return out
}
