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

// userData has the cloud-config keys that aivm sets, in their order in the file.
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

// sshdConf disables password logins before sshd starts for the first time. sshd uses the
// first value of an option, and includes the directory at the top of sshd_config. TCP
// forwarding is enabled explicitly, since editors connect through it. With SHLVL, aivm makes bash skip
// a ~/.bashrc that lets no command run (internal/guest, StartupError).
const sshdConf = `# Written once by aivm.
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin no
X11Forwarding no
AllowTcpForwarding yes
AcceptEnv SHLVL
`

// sysctlConf raises the limits of inotify. Editors and build tools watch complete source
// trees, and the kernel's default limits, which depend on the guest's memory, are exceeded
// quickly.
const sysctlConf = `# Written once by aivm.
fs.inotify.max_user_watches = 524288
fs.inotify.max_user_instances = 1024
`

// updatedbDropIn keeps a plocate that is installed later from indexing shared folders, which
// every guest would otherwise do once a day. firstBootScript does the same for a locate that
// is already installed.
const updatedbDropIn = `# Written once by aivm: shared folders are not indexed.
[Service]
ExecStart=
ExecStart=updatedb.plocate --add-prunefs virtiofs
`

// firstBootScript runs in cloud-init's last stage, when SSH is already up. If one of its
// steps fails, the others are executed anyway. The last one switches cloud-init off for all
// later boots.
//
//go:embed firstboot.sh
var firstBootScript string

// keepConf makes it possible to remove the seed as soon as SSH is up, while cloud-init still
// runs. If the guest is switched off before cloud-init has finished, the next boot uses the
// data already read from the seed, and keeps network, host key and host name.
const keepConf = `# Written once by aivm.
network: {config: disabled}
ssh_deletekeys: false
preserve_hostname: true
manual_cache_clean: true
`

// UserData returns the user-data file: "#cloud-config" and JSON. JSON is used because PyYAML
// reads every string in it unchanged.
func UserData(g Guest) ([]byte, error) {
	if err := g.Check(); err != nil {
		return nil, err
	}
	data := userData{
		CloudInitModules: []string{"write_files", "set_hostname", "update_etc_hosts", "users_groups", "ssh"},
		// Growing the disk runs after sshd has started, so that it delays no login.
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
		// The schema requires at least one type. With ssh_keys given, no key is generated,
		// and ssh_deletekeys removes the keys of the image.
		SSHDeletekeys: true, SSHGenkeytypes: []string{"ed25519"},
		SSHKeys: hostKeys{
			Private: strings.TrimRight(g.HostKeyPrivatePEM, "\n") + "\n",
			Public:  g.HostKeyPublic,
		},
		// Keep the package sources of the image: the default would write a mirror that may
		// be unreachable from a closed network.
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

// NetworkConfig returns the network-config file (version 2): the only device, by its MAC
// address, with IPv4 by DHCP. IPv6 is disabled completely: a router advertisement would open
// another route that aivm's firewall does not cover, and waiting for a link-local address
// delays the network by a second. The DHCP client identifier is the MAC address, so that a
// reservation also works for a copied disk.
//
// The device is not "optional": netplan before 1.0 starts systemd-networkd-wait-online even
// so, which waits for its limit of two minutes if no device is required (systemd issue
// 29388), and sshd waits for it.
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

// encode returns v as JSON that PyYAML reads correctly too, with head before it. PyYAML does
// not accept unescaped DEL and C1 controls, and treats NEL as a line break, so these are
// escaped; encoding/json escapes the other problematic characters. Characters outside the
// BMP are not escaped, since YAML would read a JSON surrogate pair as two characters.
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
