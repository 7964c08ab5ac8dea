package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"al.essio.dev/pkg/shellescape"
	"github.com/google/renameio/v2"

	"aivm.dev/aivm/internal/ui"
)

// Instance is what has to be known to reach a VM without asking libvirt. It
// lies beside the VM's host key in the state directory, is written before the
// VM is defined, and says what was decided then; libvirt is the judge of what
// is true now.
type Instance struct {
	Schema          int          `json:"schema"`
	UUID            string       `json:"uuid"`
	MAC             string       `json:"mac"`
	Address         string       `json:"address"`
	User            string       `json:"user"`
	Identities      []string     `json:"identities"`          // private key files, or public ones held by an agent
	Adopted         bool         `json:"adopted,omitempty"`   // made by aivm 0.3 and taken over: its host key is its own
	HasFolderDevice bool         `json:"moved,omitempty"`     // one taken over has aivm's device for folders
	SeedLeft        bool         `json:"seed_left,omitempty"` // the first boot's seed was not removed yet
	CreatedWith     *CreatedWith `json:"made,omitempty"`      // what the VM was made as; nil for one of an earlier aivm

	unknownKeys map[string]json.RawMessage // what a later aivm added
}

// Made is what was chosen when the VM was made, for the run that records it in
// the config: it may be another one than the run that chose.
type CreatedWith struct {
	Image  string `json:"image"` // as in the config
	CPUs   int    `json:"cpus"`
	RAMMB  int    `json:"ram_mb"`
	DiskGB int    `json:"disk_gb"`
}

// instanceSchema is the version of instance.json this program writes.
const instanceSchema = 1

// InstancePath returns the path of a VM's instance.json.
func (d Dir) InstancePath(vm string) string { return filepath.Join(d.VM(vm), "instance.json") }

// Instance reads the instance of a VM; nil without an error when the VM has
// none. ErrLater is in the chain of the error for one that a later aivm wrote.
func (d Dir) Instance(vm string) (*Instance, error) {
	b, err := os.ReadFile(d.InstancePath(vm))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var head struct{ Schema int }
	if json.Unmarshal(b, &head) == nil && head.Schema > instanceSchema {
		return nil, laterFormat(fmt.Sprintf("the state file of VM %q", vm), d.InstancePath(vm), head.Schema, instanceSchema)
	}
	var in Instance
	err = json.Unmarshal(b, &in)
	if err == nil {
		_, err = netip.ParseAddr(in.Address)
	}
	if err != nil {
		return nil, ui.Refused("the state file of VM %q is damaged: %s: %w", vm, d.InstancePath(vm), err).
			Hint(ui.CmdFor("move it away, and what it said is asked of libvirt", "mv "+shellescape.Quote(d.InstancePath(vm))+" /tmp/"), ui.CmdFor("then", "aivm vm restart "+vm))
	}
	return &in, nil
}

// later refuses a file whose format is newer than this program: it is neither
// understood nor written over.
func laterFormat(what, path string, has, known int) error {
	return ui.Refused("%s is in version %d of its format, this aivm knows %d: %s: %w", what, has, known, path, ErrLater).
		Hint(ui.Remark("use the aivm that wrote it"))
}

// ErrLater is in the chain of a refusal of what a later aivm wrote.
var ErrLater = errors.New("written by a later aivm")

// UnmarshalJSON keeps what a later aivm of the same format added.
func (in *Instance) UnmarshalJSON(b []byte) error {
	type known Instance
	var k known
	if err := json.Unmarshal(b, &k); err != nil {
		return err
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(b, &all); err != nil {
		return err
	}
	for _, key := range instanceKeys() {
		for had := range all {
			if strings.EqualFold(had, key) { // as encoding/json reads them
				delete(all, had)
			}
		}
	}
	if *in = Instance(k); len(all) > 0 {
		in.unknownKeys = all
	}
	return nil
}

// MarshalJSON writes it with what was kept.
func (in Instance) MarshalJSON() ([]byte, error) {
	type known Instance
	b, err := json.Marshal(known(in))
	if err != nil || len(in.unknownKeys) == 0 {
		return b, err
	}
	rest, err := json.Marshal(in.unknownKeys)
	if err != nil {
		return nil, err
	}
	return slices.Concat(b[:len(b)-1], []byte(","), rest[1:]), nil
}

func instanceKeys() []string {
	var out []string
	t := reflect.TypeFor[Instance]()
	for i := range t.NumField() {
		if name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ","); name != "" {
			out = append(out, name)
		}
	}
	return out
}

// SaveInstance writes the instance of a VM, but never over one of a later format.
func (d Dir) SaveInstance(vm string, in Instance) error {
	if _, err := d.Instance(vm); errors.Is(err, ErrLater) {
		return err
	}
	in.Schema = instanceSchema
	b, err := json.MarshalIndent(in, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(d.VM(vm), 0o700); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	return replace(d.InstancePath(vm), append(b, '\n'), renameio.IgnoreUmask())
}
