package cloudinit

import (
	"bufio"
	"bytes"
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

const disableScript = `set -eu
fail() { printf '%s\n' "$1" >&2; exit 1; }
[ "$(id -u)" = 0 ] || fail 'switching cloud-init off needs root in the guest'
off=/etc/cloud/cloud-init.disabled
keep=/etc/cloud/cloud.cfg.d/99-aivm-keep.cfg
if [ ! -e "$off" ] && [ ! -e /var/lib/cloud/instance/boot-finished ] && [ ! -e /run/cloud-init/result.json ]; then
	fail 'the first boot of cloud-init is not over'
fi
network=
for f in /etc/netplan/50-cloud-init.yaml /etc/systemd/network/10-cloud-init-*.network \
	/etc/network/interfaces.d/50-cloud-init* /etc/NetworkManager/system-connections/cloud-init-*.nmconnection; do
	if [ -s "$f" ]; then network=$f; fi
done
[ -n "$network" ] || fail 'the network configuration cloud-init writes is missing, so the next boot would have no network'
[ -s /etc/ssh/ssh_host_ed25519_key ] || fail 'the host key /etc/ssh/ssh_host_ed25519_key is missing'
want='# Written by aivm after the first boot.
network: {config: disabled}
ssh_deletekeys: false
preserve_hostname: true
manual_cache_clean: true'
have=
if [ -f "$keep" ]; then have=$(cat "$keep"); fi
if [ "$have" != "$want" ] || [ ! -e "$off" ]; then
	mkdir -p /etc/cloud/cloud.cfg.d
	printf '%s\n' "$want" >"$keep.aivm"
	mv -f "$keep.aivm" "$keep"
	: >"$off"
	sync
fi
printf 'cloud-init off, network from %s\n' "$network"
`

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

const readyProbe = `aivm_line() {
	[ -r "$2" ] || return 0
	printf '%s ' "$1"
	while IFS= read -r aivm_l || [ -n "$aivm_l" ]; do printf '%s' "$aivm_l"; done <"$2"
	printf '\n'
}
command -v cloud-init >/dev/null 2>&1 && printf 'installed\n'
{ [ -e /etc/cloud/cloud-init.disabled ] || [ -e /run/cloud-init/disabled ]; } && printf 'disabled\n'
[ -e /var/lib/cloud/instance/boot-finished ] && printf 'finished\n'
aivm_line status /run/cloud-init/status.json
aivm_line result /run/cloud-init/result.json
printf 'end\n'
`

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
