package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const samples = 3

// startOnce creates a VM until QEMU runs, interrupts that with Ctrl-C, and deletes the VM.
func (b *bench) startOnce(w *world) (time.Duration, error) {
	c := w.command(b.ctx, w.home, nil, w.program("aivm"), "vm", "create", vmFurther, "--yes")
	var errw bytes.Buffer
	c.Stderr = &errw
	began := time.Now()
	if err := c.Start(); err != nil {
		return 0, err
	}
	gone := make(chan struct{})
	var waitErr error
	go func() {
		waitErr = c.Wait()
		close(gone)
	}()
	running, err := b.qemuRunning(vmFurther, gone)
	_ = c.Process.Signal(os.Interrupt)
	<-gone
	if err != nil {
		return 0, failed(c.Args, errors.Join(err, waitErr), errw.Bytes())
	}
	_, _, err = w.aivm(b.ctx, w.home, "vm", "delete", vmFurther, "--yes")
	return running.Sub(began), err
}

// measureStart measures the time from the process's start to QEMU running: with the image in aivm's
// cache but not yet in the storage pool, and for another VM.
func (b *bench) measureStart() error {
	for len(b.starts) < samples {
		if err := dropBase(b); err != nil {
			return err
		}
		d, err := b.startOnce(b.root)
		if err != nil {
			return err
		}
		b.starts = append(b.starts, d)
	}
	var further []time.Duration
	for range samples {
		d, err := b.startOnce(b.root)
		if err != nil {
			return err
		}
		further = append(further, d)
	}
	for _, k := range []struct {
		what string
		ds   []time.Duration
	}{{"image cached", b.starts}, {"a further VM", further}} {
		m := median(k.ds)
		b.table.add(figure{
			name:  fmt.Sprintf("cold vm create (%s): process start to QEMU running, median of %d", k.what, len(k.ds)),
			value: seconds(m), limit: "<= 2.0 s",
		}, m <= 2*time.Second)
	}
	return nil
}

// bases returns the volumes of the guest image in the bench's pool.
func bases() ([]string, error) { return filepath.Glob(baseDir + "/base-*") }

// dropBase deletes the guest image from the bench's pool; it stays in aivm's cache.
func dropBase(b *bench) error {
	found, err := bases()
	if err != nil {
		return err
	}
	for _, p := range found {
		if _, err := virsh(b.ctx, "vol-delete", "--pool", poolName(), filepath.Base(p)); err != nil {
			return err
		}
	}
	return nil
}

// ensureBase uploads the guest image to the pool unless an earlier part did.
func (b *bench) ensureBase() error {
	if _, err := b.base(); err == nil {
		return nil
	}
	_, err := b.startOnce(b.root)
	return err
}

// base returns the path of the guest image in the pool.
func (b *bench) base() (string, error) {
	found, err := bases()
	if err != nil {
		return "", err
	}
	for _, p := range found {
		if image, ok := strings.CutSuffix(p, ".done"); ok {
			return image, nil
		}
	}
	return "", errors.New("there is no guest image in " + baseDir)
}
