package cloudinit

import (
	"bufio"
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"strings"
)

// DisableScript mends a guest whose first boot was cut short before
// firstBootScript could switch cloud-init off. It returns a POSIX shell script that ends cloud-init's part in a
// guest, to be run there as root (sudo -n sh -c SCRIPT) after the first boot
// and before the seed is deleted. It can be run any number of times.
//
// It refuses unless the first boot is over and what the next boot needs lies
// on the disk: the network configuration cloud-init wrote (netplan, networkd,
// ifupdown or NetworkManager) and the host key. Then it writes
//
//   - /etc/cloud/cloud.cfg.d/99-aivm-keep.cfg: should somebody switch
//     cloud-init on again, it keeps network, host keys and host name although
//     there is no seed any more;
//   - /etc/cloud/cloud-init.disabled: no later boot starts cloud-init;
//
// and syncs, because a guest that is killed a second later must come back with
// the user and keys the seed can no longer give it. It prints one line,
// "cloud-init off, network from FILE".
func DisableScript() string { return disableScript }

//go:embed disable.sh
var disableScript string

// Status is what a guest says about cloud-init.
type Status struct {
	Installed  bool
	Disabled   bool     // no later boot starts it
	Finished   bool     // a first boot is over, whether or not it had errors
	SeedRead   bool     // the stages that read the seed are over
	Stage      string   // "init-local", "init", "modules-config", "modules-final" while one runs
	Datasource string   // "DataSourceNoCloud [seed=/dev/vdb]..." once known
	Errors     []string // what cloud-init reports; from the guest, so hostile
}

// ReadyProbe returns a shell snippet that tells how far cloud-init is, for
// ParseReady. It needs no rights and starts no program: "cloud-init status"
// is Python and takes a second in an emulated guest.
func ReadyProbe() string { return readyProbe }

//go:embed ready.sh
var readyProbe string

// maxErrors bounds what a guest can make us show.
const maxErrors = 20

// ParseReady reads what ReadyProbe printed. Output that was cut short is an
// error, never "not installed".
func ParseReady(out []byte) (Status, error) {
	var r Status
	ended := false
	lines := bufio.NewScanner(bytes.NewReader(out))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		word, rest, _ := strings.Cut(lines.Text(), " ")
		switch word {
		case "installed":
			r.Installed = true
		case "disabled":
			r.Disabled = true
		case "finished":
			r.Finished = true
		case "status":
			// Written again at every step; a half-written one only costs
			// the name of the stage.
			r.readStatus(rest)
		case "result":
			if err := r.readResult(rest); err != nil {
				return Status{}, err
			}
		case "end":
			ended = true
		}
	}
	if err := lines.Err(); err != nil {
		return Status{}, fmt.Errorf("reading the state of cloud-init: %w", err)
	}
	if !ended {
		return Status{}, fmt.Errorf("reading the state of cloud-init: the answer of the guest is cut short")
	}
	return r, nil
}

func (r *Status) readStatus(text string) {
	var s struct {
		V1 struct {
			Stage      string `json:"stage"`
			Datasource string `json:"datasource"`
			Init       struct {
				Finished float64 `json:"finished"`
			} `json:"init"`
		} `json:"v1"`
	}
	if json.Unmarshal([]byte(text), &s) == nil {
		r.Stage, r.Datasource, r.SeedRead = s.V1.Stage, s.V1.Datasource, s.V1.Init.Finished > 0
	}
}

func (r *Status) readResult(text string) error {
	var s struct {
		V1 struct {
			Datasource string   `json:"datasource"`
			Errors     []string `json:"errors"`
		} `json:"v1"`
	}
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return fmt.Errorf("reading cloud-init's result.json: %w", err)
	}
	r.Finished, r.Stage, r.Datasource = true, "", s.V1.Datasource
	r.Errors = s.V1.Errors
	if len(r.Errors) > maxErrors {
		r.Errors = r.Errors[:maxErrors]
	}
	return nil
}
