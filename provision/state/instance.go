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

// Instance is the content of instance.json: what aivm needs to reach a VM without asking
// libvirt. It is written before the VM is defined and holds what was decided then; libvirt
// knows what is true now.
type Instance struct {
	Schema          int          `json:"schema"`
	UUID            string       `json:"uuid"`
	MAC             string       `json:"mac"`
	Address         string       `json:"address"`
	User            string       `json:"user"`
	Identities      []string     `json:"identities"`          // private key files, or public ones held by an agent
	Adopted         bool         `json:"adopted,omitempty"`   // made by aivm 0.3 and adopted: the guest generated its host key itself
	HasFolderDevice bool         `json:"moved,omitempty"`     // an adopted VM has got aivm's virtiofs device for folders
	SeedLeft        bool         `json:"seed_left,omitempty"` // the seed of the first boot was not removed yet
	CreatedWith     *CreatedWith `json:"made,omitempty"`      // nil for a VM of an earlier aivm

	unknownKeys map[string]json.RawMessage // keys that a later aivm added
}

// CreatedWith holds the image and sizes that a VM was created with. The run that records them
// in the config may be another one than the run that chose them.
type CreatedWith struct {
	Image  string `json:"image"` // in the config's notation
	CPUs   int    `json:"cpus"`
	RAMMB  int    `json:"ram_mb"`
	DiskGB int    `json:"disk_gb"`
}

// instanceSchema is the version of instance.json that this program writes.
const instanceSchema = 1

// InstancePath returns the path of a VM's instance.json.
func (d Dir) InstancePath(vm string) string { return filepath.Join(d.VM(vm), "instance.json") }

// Instance reads a VM's instance.json; nil without an error if there is none. The error wraps
// ErrLater if a later aivm wrote the file.
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
	var inst Instance
	err = json.Unmarshal(b, &inst)
	if err == nil {
		_, err = netip.ParseAddr(inst.Address)
	}
	if err != nil {
		return nil, ui.Refused("the state file of VM %q is damaged: %s: %w", vm, d.InstancePath(vm), err).
			Hint(ui.CmdFor("move it away", "mv "+shellescape.Quote(d.InstancePath(vm))+" /tmp/"), ui.CmdFor("then, to write it again from libvirt's data", "aivm vm restart "+vm))
	}
	return &inst, nil
}

// laterFormat returns the refusal of a file whose format is newer than this program.
func laterFormat(what, path string, has, known int) error {
	return ui.Refused("%s has format version %d, this aivm reads version %d: %s: %w", what, has, known, path, ErrLater).
		Hint(ui.Remark("use the aivm that wrote it"))
}

// ErrLater is wrapped by the refusal of a file that a later aivm wrote.
var ErrLater = errors.New("written by a later aivm")

// UnmarshalJSON keeps unknown keys, which a later aivm with the same format version added.
func (inst *Instance) UnmarshalJSON(b []byte) error {
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
			if strings.EqualFold(had, key) { // encoding/json ignores case too
				delete(all, had)
			}
		}
	}
	if *inst = Instance(k); len(all) > 0 {
		inst.unknownKeys = all
	}
	return nil
}

// MarshalJSON writes the unknown keys too.
func (inst Instance) MarshalJSON() ([]byte, error) {
	type known Instance
	b, err := json.Marshal(known(inst))
	if err != nil || len(inst.unknownKeys) == 0 {
		return b, err
	}
	rest, err := json.Marshal(inst.unknownKeys)
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

// SaveInstance writes a VM's instance.json, but never overwrites one of a later format.
func (d Dir) SaveInstance(vm string, inst Instance) error {
	if _, err := d.Instance(vm); errors.Is(err, ErrLater) {
		return err
	}
	inst.Schema = instanceSchema
	b, err := json.MarshalIndent(inst, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(d.VM(vm), 0o700); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	return replace(d.InstancePath(vm), append(b, '\n'), renameio.IgnoreUmask())
}
