package cloudinit

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"unicode/utf8"

	"aivm.dev/aivm/internal/guestuser"
)

// userData is the part of the cloud-config vocabulary we use; the order of the
// fields is the order in the file.
type userData struct {
	CloudInitModules   []string    `json:"cloud_init_modules"`
	CloudConfigModules []string    `json:"cloud_config_modules"`
	CloudFinalModules  []string    `json:"cloud_final_modules"`
	Hostname           string      `json:"hostname"`
	ManageEtcHosts     bool        `json:"manage_etc_hosts"`
	Users              []user      `json:"users"`
	DisableRoot        bool        `json:"disable_root"`
	SSHPwauth          bool        `json:"ssh_pwauth"`
	SSHDeletekeys      bool        `json:"ssh_deletekeys"`
	SSHGenkeytypes     []string    `json:"ssh_genkeytypes"`
	SSHKeys            hostKeys    `json:"ssh_keys"`
	SSHPublishHostkeys publishKeys `json:"ssh_publish_hostkeys"`
	Apt                aptConfig   `json:"apt"`
	WriteFiles         []file      `json:"write_files"`
	Runcmd             [][]string  `json:"runcmd"`
	FinalMessage       string      `json:"final_message"`
}

type (
	user struct {
		Name              string   `json:"name"`
		UID               int      `json:"uid"`
		Shell             string   `json:"shell"`
		Sudo              string   `json:"sudo"`
		LockPasswd        bool     `json:"lock_passwd"`
		SSHAuthorizedKeys []string `json:"ssh_authorized_keys"`
	}
	hostKeys struct {
		Private string `json:"ed25519_private"`
		Public  string `json:"ed25519_public"`
	}
	publishKeys struct {
		Enabled bool `json:"enabled"`
	}
	aptConfig struct {
		PreserveSourcesList bool `json:"preserve_sources_list"`
	}
	file struct {
		Path        string `json:"path"`
		Permissions string `json:"permissions"`
		Content     string `json:"content"`
	}
)

// sshdConf closes password logins before sshd starts for the first time. In
// sshd_config the first value wins, and the directory is included on top. The
// editor's connection is a forward, so forwarding is switched on by name.
const sshdConf = `# Written once by aivm.
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin no
X11Forwarding no
AllowTcpForwarding yes
`

// sysctlConf: editors and build tools watch whole source trees; the kernel's
// own limits follow the memory of the guest and are used up quickly.
const sysctlConf = `# Written once by aivm.
fs.inotify.max_user_watches = 524288
fs.inotify.max_user_instances = 1024
`

// updatedbDropIn covers a locate that is installed later; firstBootScript the
// one that is there. Without them every guest would index the shared folders
// of the host once a day.
const updatedbDropIn = `# Written once by aivm: shared folders are not indexed.
[Service]
ExecStart=
ExecStart=updatedb.plocate --add-prunefs virtiofs
`

// firstBootScript runs in cloud-init's last stage, after SSH answers. Each
// step stands alone, so none can keep another from happening. The last one
// switches cloud-init off for all later boots.
//
//go:embed firstboot.sh
var firstBootScript string

// keepConf lets the seed leave as soon as SSH answers, while cloud-init still
// works: should the guest be switched off before it is through, the next boot
// trusts what was read from the seed and keeps network, host key and name.
const keepConf = `# Written once by aivm.
network: {config: disabled}
ssh_deletekeys: false
preserve_hostname: true
manual_cache_clean: true
`

// UserData returns the user-data file: "#cloud-config" and JSON, which is the
// only encoding that PyYAML reads back unchanged for every string.
func UserData(g Guest) ([]byte, error) {
	if err := g.Check(); err != nil {
		return nil, err
	}
	data := userData{
		CloudInitModules: []string{"write_files", "set_hostname", "update_etc_hosts", "users_groups", "ssh"},
		// Growing the disk needs no login to wait for it.
		CloudConfigModules: []string{"growpart", "resizefs", "grub_dpkg", "runcmd"},
		CloudFinalModules:  []string{"scripts_user", "final_message"},
		Hostname:           g.Hostname,
		ManageEtcHosts:     true,
		Users: []user{{
			Name: g.User, UID: guestuser.ID, Shell: "/bin/bash",
			Sudo: "ALL=(ALL) NOPASSWD:ALL", LockPasswd: true,
			SSHAuthorizedKeys: g.AuthorizedKeys,
		}},
		DisableRoot: true,
		// The schema wants at least one type; with ssh_keys given none is
		// generated, and ssh_deletekeys removes those an image came with.
		SSHDeletekeys: true, SSHGenkeytypes: []string{"ed25519"},
		SSHKeys: hostKeys{
			Private: strings.TrimRight(g.HostKeyPrivatePEM, "\n") + "\n",
			Public:  g.HostKeyPublic,
		},
		// An image keeps the package sources it was built with: the default
		// would write a mirror that a closed network may not reach.
		Apt: aptConfig{PreserveSourcesList: true},
		WriteFiles: []file{
			{"/etc/cloud/cloud.cfg.d/99-aivm-keep.cfg", "0644", keepConf},
			{"/etc/ssh/sshd_config.d/10-aivm.conf", "0644", sshdConf},
			{"/etc/sysctl.d/60-aivm.conf", "0644", sysctlConf},
			{"/etc/systemd/system/plocate-updatedb.service.d/aivm.conf", "0644", updatedbDropIn},
		},
		Runcmd:       [][]string{{"/bin/sh", "-c", firstBootScript}},
		FinalMessage: "aivm: the first boot is complete",
	}
	return encode("#cloud-config\n", data)
}

// MetaData returns the meta-data file.
func MetaData(g Guest) ([]byte, error) {
	if err := g.Check(); err != nil {
		return nil, err
	}
	return encode("", struct {
		InstanceID    string `json:"instance-id"`
		LocalHostname string `json:"local-hostname"`
	}{g.InstanceID, g.Hostname})
}

type (
	networkConfig struct {
		Version   int                 `json:"version"`
		Ethernets map[string]ethernet `json:"ethernets"`
	}
	ethernet struct {
		Match          match    `json:"match"`
		DHCP4          bool     `json:"dhcp4"`
		DHCP6          bool     `json:"dhcp6"`
		AcceptRA       bool     `json:"accept-ra"`
		LinkLocal      []string `json:"link-local"`
		DHCPIdentifier string   `json:"dhcp-identifier"`
	}
	match struct {
		MACAddress string `json:"macaddress"`
	}
)

// NetworkConfig returns the network-config file (version 2): the one device by
// its MAC address, IPv4 by DHCP. IPv6 is off to the last bit: a router
// advertisement would be a second way out that no rule of ours covers, and
// waiting for a link-local address costs a second before the network counts
// as up. The client identifier is the MAC address, so that a reservation
// holds for a copied disk too.
//
// The device is not "optional": netplan before 1.0 starts
// systemd-networkd-wait-online all the same, which without a single required
// device waits for its whole limit of two minutes (systemd issue 29388), and
// sshd waits with it.
func NetworkConfig(g Guest) ([]byte, error) {
	if err := g.Check(); err != nil {
		return nil, err
	}
	mac, err := net.ParseMAC(g.MAC)
	if err != nil {
		return nil, fmt.Errorf("parsing %q: %w", g.MAC, err)
	}
	return encode("", networkConfig{2, map[string]ethernet{"lan": {
		Match: match{mac.String()}, DHCP4: true, LinkLocal: []string{}, DHCPIdentifier: "mac",
	}}})
}

// encode writes JSON that PyYAML accepts too: it takes neither DEL nor the C1
// controls as they are, and folds NEL like the end of a line. encoding/json
// escapes the other troublemakers itself. Characters beyond the BMP stay as
// they are, since YAML would read a JSON pair of escapes as two characters.
func encode(head string, v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("encoding cloud-init data: %w", err)
	}
	out := []byte(head)
	for _, r := range b.String() {
		if r >= 0x7f && r < 0xa0 || r == 0xfeff || r == 0xfffe || r == 0xffff {
			out = fmt.Appendf(out, `\u%04x`, r)
		} else {
			out = utf8.AppendRune(out, r)
		}
	}
	return out, nil
}
