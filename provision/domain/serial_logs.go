package domain

import (
	"context"
	"errors"
	"slices"
	"strings"

	"aivm.dev/aivm/internal/virt"
)

// logVolumes returns the volumes of a serial log: the log itself and the files virtlogd
// rotated it to, which have a number after its name (virRotatingFileWriterRollover in
// libvirt's virrotatingfile.c).
func logVolumes(p *virt.Pool, log string) []string {
	var out []string
	if p == nil {
		return nil
	}
	for name := range p.Volumes {
		n, ok := strings.CutPrefix(name, log+".")
		if name == log || ok && n != "" && strings.Trim(n, "0123456789") == "" {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// deleteLogs deletes a serial log and its rotated files.
func deleteLogs(ctx context.Context, l Libvirt, pool, dir, log string) error {
	p, err := l.PoolAt(ctx, dir)
	if errors.Is(err, virt.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, v := range logVolumes(p, log) {
		if err := l.DeleteVolume(ctx, pool, v); err != nil {
			return err
		}
	}
	return nil
}
