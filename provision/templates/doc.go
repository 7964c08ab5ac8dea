// Package templates builds the templates that one-shot VMs are resumed from, and lists them.
//
// It owns $XDG_CACHE_HOME/aivm/templates/.layers, the disks after each step of setup; the templates
// beside it are internal/template's. Packages, scripts and Node are installed in a VM only, never on
// this machine, and what that VM sends is not trusted.
//
// Invariants: a layer or template has its name only once it is complete (rename); a step that a
// layer with its digest shows as finished is not repeated; a setup writes only below the directory
// of the templates and, with flags, the template's section of the config.
package templates

import (
	"path/filepath"

	"aivm.dev/aivm/provision/loop"
)

// Part holds the functions of this package for one run.
type Part struct {
	loop.Loop
	Backend Backend
}

// For returns the Part of a run, which builds with QEMU.
func For(l loop.Loop) Part { return Part{Loop: l, Backend: hypervisor{dir: Dir(l.Cache.Dir)}} }

// Dir returns the directory of the templates, which is beside that of the images.
func Dir(imageCache string) string { return filepath.Join(filepath.Dir(imageCache), "templates") }

// layers returns the store of the finished steps.
func (e Part) layers() layerStore {
	return layerStore{Dir: filepath.Join(Dir(e.Cache.Dir), ".layers")}
}
