package provision

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"

	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/sshcfg"
)

// Instance is what has to be known to reach a VM without asking libvirt. It
// lies beside the VM's host key in the state directory, is written before the
// VM is defined, and says what was decided then; libvirt is the judge of what
// is true now.
type Instance struct {
	Schema     int      `json:"schema"`
	UUID       string   `json:"uuid"`
	MAC        string   `json:"mac"`
	Address    string   `json:"address"`
	User       string   `json:"user"`
	Identities []string `json:"identities"`          // private key files, or public ones held by an agent
	Adopted    bool     `json:"adopted,omitempty"`   // made by aivm 0.3 and taken over: its host key is its own
	Moved      bool     `json:"moved,omitempty"`     // one taken over has aivm's device for folders
	SeedLeft   bool     `json:"seed_left,omitempty"` // the first boot's seed was not removed yet
}

func instancePath(l sshcfg.Layout, vm string) string {
	return filepath.Join(l.VMDir(vm), "instance.json")
}

// loadInstance returns nil without an error when the VM has none.
func loadInstance(l sshcfg.Layout, vm string) (*Instance, error) {
	b, err := os.ReadFile(instancePath(l, vm))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var in Instance
	err = json.Unmarshal(b, &in)
	if err == nil {
		_, err = netip.ParseAddr(in.Address)
	}
	if err != nil {
		return nil, ui.Refused("the state file of VM %q is damaged: %s: %w", vm, instancePath(l, vm), err).
			Hint("move it away, and what it said is asked of libvirt: mv "+shellQuote(instancePath(l, vm))+" /tmp/", "then: aivm vm restart "+vm)
	}
	return &in, nil
}

func saveInstance(l sshcfg.Layout, vm string, in Instance) error {
	in.Schema = 1
	b, err := json.MarshalIndent(in, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(l.VMDir(vm), 0o700); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	return renameio.WriteFile(instancePath(l, vm), append(b, '\n'), 0o600, renameio.IgnoreUmask())
}
