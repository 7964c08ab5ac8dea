package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

const preparedImage = "aivm-bench-prepared"

// measurePrepare makes an image of a VM after its first boot, and compares in pairs how long `vm
// create` takes until a VM is usable: with the plain image and with the prepared one.
func (b *bench) measurePrepare() error {
	w := b.root
	if err := b.ensureBase(); err != nil {
		return err
	}
	b.say("creating a VM to make an image of")
	if _, _, err := w.aivm(b.ctx, w.home, "vm", "create", vmMain, "--yes"); err != nil {
		return err
	}
	if err := w.firstBootOver(); err != nil {
		return err
	}
	if _, _, err := w.aivm(b.ctx, w.home, "vm", "down", vmMain); err != nil {
		return err
	}
	out, took, err := w.aivm(b.ctx, w.home, "vm", "prepare", vmMain, "--as", preparedImage, "--replace", "--yes", "--json")
	if err != nil {
		return err
	}
	var made struct{ Size int64 }
	if err := json.Unmarshal([]byte(out), &made); err != nil {
		return err
	}
	b.table.add(figure{name: "vm prepare (VM off; a boot, cleaning, copying)", value: seconds(took), reference: fmt.Sprintf("an image of %.0f MB", float64(made.Size)/1e6)}, true)
	if _, _, err := w.aivm(b.ctx, w.home, "vm", "delete", vmMain, "--yes"); err != nil {
		return err
	}

	var plain, prepared []time.Duration
	for i := range b.pairs {
		for _, which := range []struct {
			image string
			took  *[]time.Duration
		}{{"packages:debian-12", &plain}, {preparedImage, &prepared}} {
			b.say("pair %d of %d: vm create --image %s", i+1, b.pairs, which.image)
			_, d, err := w.aivm(b.ctx, w.home, "vm", "create", vmFurther, "--image", which.image, "--yes")
			if err != nil {
				return err
			}
			*which.took = append(*which.took, d)
			if _, _, err := w.aivm(b.ctx, w.home, "vm", "delete", vmFurther, "--yes"); err != nil {
				return err
			}
		}
	}
	var ratios []float64
	for i := range plain {
		ratios = append(ratios, prepared[i].Seconds()/plain[i].Seconds())
	}
	a, p, r := median(plain), median(prepared), median(ratios)
	b.table.add(figure{
		"vm create from a prepared image, until usable", seconds(p), "plain image " + seconds(a), ratio(r), "<= 0.6", "",
	}, r <= 0.6)
	_, _, err = w.aivm(b.ctx, w.home, "image", "remove", preparedImage, "--yes")
	return err
}

// firstBootOver waits until cloud-init has disabled itself.
func (w *world) firstBootOver() error {
	if _, _, err := w.login(`for i in $(seq 180); do [ -e /etc/cloud/cloud-init.disabled ] && exit 0; sleep 1; done; exit 1`); err != nil {
		return fmt.Errorf("the first boot does not complete: %w", err)
	}
	return nil
}

// dropPrepared removes the image of a killed run from the cache.
func (b *bench) dropPrepared(ctx context.Context) {
	if _, err := os.Stat(filepath.Join(b.root.home, ".config/aivm/config.toml")); err == nil {
		_, _, _ = b.root.aivm(ctx, b.root.home, "image", "remove", preparedImage, "--yes")
	}
}
