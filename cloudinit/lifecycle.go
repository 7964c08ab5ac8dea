package cloudinit

import (
	"bufio"
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"strings"
)

// DisableScript returns a POSIX shell script that switches cloud-init off in a guest whose
// first boot was interrupted before firstBootScript did so. Guest root runs it
// (sudo -n sh -c SCRIPT) after the first boot and before the seed is deleted. Running it
// again is harmless.
//
// It fails unless the first boot is finished and the disk has what the next boot needs: the
// network configuration written by cloud-init (netplan, networkd, ifupdown or
// NetworkManager) and the host key. Then it writes
//
//   - /etc/cloud/cloud.cfg.d/99-aivm-keep.cfg: if the user enables cloud-init again, it
//     keeps network, host keys and host name although there is no seed;
//   - /etc/cloud/cloud-init.disabled: no later boot starts cloud-init;
//
// and syncs, so that a guest killed right after it still has the user and keys, which the
// deleted seed cannot supply again. It prints one line, "cloud-init off, network from FILE".
func DisableScript() string { return disableScript }

//go:embed disable.sh
var disableScript string

// Status is the state of cloud-init as the guest reports it.
type Status struct {
	Installed  bool
	Disabled   bool     // no later boot starts it
	Finished   bool     // a first boot is finished, with or without errors
	SeedRead   bool     // the stages that read the seed are finished
	Stage      string   // "init-local", "init", "modules-config", "modules-final" while one runs
	Datasource string   // "DataSourceNoCloud [seed=/dev/vdb]..." once known
	Errors     []string // errors cloud-init reports; not trusted, since the guest sends them
}

// ReadyProbe returns a shell snippet that prints the state of cloud-init for ParseReady. It
// needs no privileges and starts no program: "cloud-init status" is a Python program that
// takes a second in an emulated guest.
func ReadyProbe() string { return readyProbe }

//go:embed ready.sh
var readyProbe string

// maxErrors is the maximum number of errors taken from a guest.
const maxErrors = 20

// ParseReady parses the output of ReadyProbe. Incomplete output is an error, and not taken
// for "not installed".
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
			// cloud-init rewrites this file in every stage; if it is incomplete, only the
			// stage's name is missing.
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
		return Status{}, fmt.Errorf("reading the state of cloud-init: the guest's output is incomplete")
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
