package templates

import (
	"context"
	"io"
	"time"
)

// Backend does what needs QEMU and a VM. Tests replace it.
type Backend interface {
	// Check returns what VMs of this machine run on, or why no VM can be started.
	Check(ctx context.Context) (Machinery, error)
	// Published returns the templates, the newest first. Their Stale is left empty where m is nil.
	Published(m *Machinery) ([]Published, error)
	// Building reports whether a setup works on the template of a name now.
	Building(name string) bool
	// Begin takes the lock of the template's name and begins a new one from a disk image.
	Begin(ctx context.Context, d DraftSpec) (Draft, error)
}

// Machinery is what VMs of this machine run on.
type Machinery struct {
	QEMU  string // its version
	Accel string // "kvm" or "tcg"
	Why   string // why it is not kvm
	real  any    // the backend's
}

// DraftSpec describes a template that is to be built.
type DraftSpec struct {
	Machinery Machinery
	Spec      Spec
	Image     string // path
	SHA256    string // of the image
	Digest    string // of the steps
	Waiting   func(holder string)
}

// Draft is a template that is being built. Its VMs run one after the other.
type Draft interface {
	// Keep copies the disk to a file; Restore replaces it by such a file. No VM runs.
	Keep(to string) error
	Restore(from string) error
	// Start boots a VM with a network card and returns once its guest answers. Nothing is
	// connected to the card until Machine.Connect.
	Start(ctx context.Context, network bool, console io.Writer) (Machine, error)
	// Publish saves the prepared VM, resumes it as a trial, and publishes the template in place of
	// the earlier ones of its name.
	Publish(ctx context.Context, m Machine, warm [][]string, s Setup) error
	// Close deletes what was not published, and releases the lock.
	Close()
}

// Machine is a VM of setup whose guest answers.
type Machine interface {
	// Connect connects the network. The VM may reach public addresses and these (HOST:PORT).
	Connect(ctx context.Context, addresses []string) error
	// Run runs a script as root. out receives what it prints; a failure is an *ExitError.
	Run(ctx context.Context, s GuestScript, out io.Writer) error
	// PowerOff shuts the VM down, so that its disk is complete.
	PowerOff(ctx context.Context) error
	// Close ends the VM if it still runs.
	Close()
}

// GuestScript is a script that runs in a VM, with files of the given contents beside it.
type GuestScript struct {
	Name, Text string
	Env        []string
	Files      map[string][]byte // path in the VM -> content
	// Program: it is started as a program of its own, not by sh.
	Program bool
}

// ExitError is the error of a script that ran and failed.
type ExitError struct{ How string }

// Error returns how the script ended.
func (e *ExitError) Error() string { return e.How }

// Setup is what a template was built from, as it is kept with the template.
type Setup struct {
	Spec        Spec              `json:"spec"`
	ImageSHA256 string            `json:"image_sha256,omitempty"`
	ImageDate   string            `json:"image_date,omitempty"`
	Digest      string            `json:"digest"` // of the disk's steps
	Layers      []string          `json:"layers"`
	Installed   time.Time         `json:"installed"` // when the oldest step ran
	Versions    map[string]string `json:"versions"`
}

// Published is a template that runs can use.
type Published struct {
	Name    string
	Key     string
	Created time.Time
	Accel   string
	Size    int64
	Setup   Setup
	Damaged string // why it cannot be used; ""
	Stale   string // why it no longer fits this machine; ""
}
