package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// manyFolders is how many folders are restored, compared with one.
const manyFolders = 50

// measureRestore measures how long a run needs to mount folders again that are unmounted on the
// host and in the guest while the VM runs, as if the guest's unit and libvirt's hook had failed.
// First the VM's one folder, then fifty.
func (b *bench) measureRestore(w *world) error {
	times := func(n int) ([]time.Duration, error) {
		var out []time.Duration
		for range 5 {
			if err := w.loseFolders(); err != nil {
				return nil, err
			}
			before, err := w.acceptedLogins()
			if err != nil {
				return nil, err
			}
			// No terminal and no --yes: a question would be refused.
			_, d, err := w.aivm(b.ctx, w.home, "vm", "up", w.vm)
			if err != nil {
				return nil, err
			}
			after, err := w.acceptedLogins()
			if err != nil {
				return nil, err
			}
			if n := after - before; n != 2 { // one of the run, and one of this count
				return nil, fmt.Errorf("%d logins while folders were restored", n-1)
			}
			got, _, err := w.login(`grep ' - virtiofs ' /proc/self/mountinfo | grep -vc ' /run/aivm/share/'`)
			if err != nil {
				return nil, err
			}
			if m, err := strconv.Atoi(strings.TrimSpace(got)); err != nil || m != n+1 {
				return nil, fmt.Errorf("the guest has %s mounts, not %d", strings.TrimSpace(got), n+1)
			}
			out = append(out, d)
		}
		return out, nil
	}
	b.say("restoring one folder")
	one, err := times(1)
	if err != nil {
		return err
	}
	b.say("attaching %d folders", manyFolders)
	for i := 1; i < manyFolders; i++ {
		dir := filepath.Join(w.home, "many", strconv.Itoa(i))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if _, _, err := w.aivm(b.ctx, dir, "attach", ".", "--yes"); err != nil {
			return err
		}
	}
	b.say("restoring %d folders", manyFolders)
	many, err := times(manyFolders)
	if err != nil {
		return err
	}
	r := float64(median(many)) / float64(median(one))
	b.table.add(figure{
		fmt.Sprintf("%d folders restored, one login, no question", manyFolders), seconds(median(many)), "one folder " + seconds(median(one)), ratio(r), "<= 1.50", "",
	}, r <= 1.5)
	return nil
}

func (w *world) acceptedLogins() (int, error) {
	out, _, err := w.login(`sudo -n journalctl -u ssh -o cat --no-pager | grep -c 'Accepted publickey'`)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(out))
}

// loseFolders unmounts every folder of the VM, in the guest and on the host.
func (w *world) loseFolders() error {
	if _, _, err := w.login(`grep ' - virtiofs ' /proc/self/mountinfo | cut -d' ' -f5 | grep -vx /run/aivm/share | sort -r | xargs -r sudo -n umount && echo 2 | sudo -n tee /proc/sys/vm/drop_caches`); err != nil {
		return err
	}
	root := "/var/lib/aivm/export/0-" + w.vm + "/"
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if !strings.HasPrefix(f[4], root) {
			continue
		}
		// virtiofsd closes files that the guest has forgotten with a delay, so try again.
		for try := 0; ; try++ {
			_, err := host(w.b.ctx, "umount", f[4])
			if err == nil {
				break
			}
			if try == 50 {
				return err
			}
			if err := w.b.sleep(100 * time.Millisecond); err != nil {
				return err
			}
		}
	}
	return nil
}
