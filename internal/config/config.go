package config

import (
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
)

// Schema is the schema_version this program writes. A store with a higher one is read-only.
const Schema = 5

// Config holds all values of the config file. The tags are the schema:
//
//	toml   the key
//	check  a rule of check.go for the value (for a list: for each element)
//	list   "ports": elements may be numbers or strings; "or one": a single
//	       string stands for a list of one; "named": the records are tables [KEY.NAME]
//	write  "always" or "nonzero": written in a new record even if it is the
//	       default, because it identifies the record or 0.3 needs it;
//	       "changed": used by 0.3 only, or seldom needed: written only if it
//	       differs from the default
type Config struct {
	SchemaVersion int          `toml:"schema_version"`
	ActiveVM      string       `toml:"active_vm" check:"vmname"`
	Behavior      Behavior     `toml:"behavior"`
	Editor        Editor       `toml:"editor"`
	Defaults      Defaults     `toml:"defaults"`
	Networks      []Network    `toml:"networks"`
	VMs           []VM         `toml:"vms"`
	Attachments   []Attachment `toml:"attachments"`
	Run           Run          `toml:"run"`
	Templates     []Template   `toml:"templates" list:"named"`
}

// Behavior is [behavior].
type Behavior struct {
	YesSudo                 bool `toml:"yes_sudo"`
	AutoApproveReadonlySudo bool `toml:"auto_approve_readonly_sudo"`
	Verbose                 int  `toml:"verbose"`
}

// VMSpec is a [vm] section. CPUs, RAMMB (MiB) and DiskGB (GiB) of 0 mean: choose a size that fits
// the host. AllowPasswordLogin and Password are keys of 0.3; they are read and kept but have no
// effect. LibvirtURI is the URI of the libvirt daemon that runs the VM; empty means virt.SystemURI
// (see Libvirt).
type VMSpec struct {
	Name               string `toml:"name" check:"vmname" write:"always"`
	User               string `toml:"user" check:"user" write:"always"`
	CPUs               int    `toml:"cpus" write:"nonzero"`
	RAMMB              int    `toml:"ram_mb" write:"nonzero"`
	DiskGB             int    `toml:"disk_gb" write:"nonzero"`
	AllowPasswordLogin bool   `toml:"allow_password_login" write:"changed"`
	Password           string `toml:"password" write:"changed"`
	IdleStop           string `toml:"idle_stop" check:"idle"`
	LibvirtURI         string `toml:"libvirt_uri" check:"libvirt" write:"changed"`
}

// Libvirt returns the URI of the libvirt daemon that runs the VM. It fails if a newer aivm wrote a
// URI that this version does not support.
func (s VMSpec) Libvirt() (virt.URI, error) {
	if s.LibvirtURI == "" {
		return virt.URI{}, nil
	}
	u, err := virt.ParseURI(s.LibvirtURI)
	if err != nil {
		return u, ui.Refused("libvirt_uri of VM %s %w", s.Name, err).Hint(ui.Cmd("aivm config edit"))
	}
	return u, nil
}

// NetworkSpec is a [network] section. An empty field means: aivm chooses the value.
type NetworkSpec struct {
	Name       string `toml:"name" check:"name" write:"always"`
	Bridge     string `toml:"bridge" check:"bridge" write:"always"`
	SubnetCIDR string `toml:"subnet_cidr" check:"subnet" write:"always"`
	GatewayIP  string `toml:"gateway_ip" check:"ip" write:"always"`
	DHCPStart  string `toml:"dhcp_start" check:"ip" write:"always"`
	DHCPEnd    string `toml:"dhcp_end" check:"ip" write:"always"`
}

// Firewall is a [firewall] section. Ports are decimal numbers or ranges
// ("8000-8100"), whether the file has them as numbers or as strings.
type Firewall struct {
	Enabled         bool     `toml:"enabled" write:"always"`
	Table           string   `toml:"table" check:"nftname" write:"always"`
	BlockCIDRs      []string `toml:"block_cidrs" check:"cidr"`
	ExtraBlockCIDRs []string `toml:"extra_block_cidrs" check:"cidr"`
	AllowTCPPorts   []string `toml:"allow_tcp_ports" check:"port" list:"ports"`
	AllowUDPPorts   []string `toml:"allow_udp_ports" check:"port" list:"ports"`
	AllowLAN        []string `toml:"allow_lan" check:"plain"`
}

// Image is an [image] section. UbuntuImgURL, CacheName and Redownload are keys of 0.3. Name is
// "auto", "ubuntu-24.04", "packages:debian-12", a URL, a path ...; at most one of SHA256 and SHA512
// is set; Mirror lists servers that are tried before the publisher's own.
type Image struct {
	UbuntuImgURL string `toml:"ubuntu_img_url" check:"plain" write:"changed"`
	CacheName    string `toml:"cache_name" check:"plain" write:"changed"`
	Redownload   bool   `toml:"redownload"`
	Name         string `toml:"name" check:"plain"`
	SHA256       string `toml:"sha256" check:"sha256"`
	SHA512       string `toml:"sha512" check:"sha512" write:"changed"`
	// One URL, or a list.
	Mirror []string `toml:"mirror" check:"https" list:"or one" write:"changed"`
}

// Provision is a [provision] section.
type Provision struct {
	Enabled       bool     `toml:"enabled"`
	InstallDocker bool     `toml:"install_docker"`
	Packages      []string `toml:"packages" check:"package"`
}

// Sync is a [sync] section. Extensions is "none", "workspace", or a list of extension ids;
// SettingsExclude and SettingsInclude are patterns of the editor's setting keys.
type Sync struct {
	Enabled         bool     `toml:"enabled"`
	Overwrite       bool     `toml:"overwrite"`
	Paths           []string `toml:"paths" check:"path"`
	SettingsExclude []string `toml:"settings_exclude" check:"plain"`
	SettingsInclude []string `toml:"settings_include" check:"plain"`
	Extensions      []string `toml:"extensions" check:"extension" list:"or one"`
}

// Paths is a [paths] section. A leading ~ is expanded by the code that uses the path.
type Paths struct {
	BaseDir         string `toml:"base_dir" check:"path"`
	StateDir        string `toml:"state_dir" check:"path"`
	SSHIdentityFile string `toml:"ssh_identity_file" check:"path"`
	SSHPubkeyPath   string `toml:"ssh_pubkey_path" check:"path"`
}

// Defaults is [defaults.*], the template for new VMs.
type Defaults struct {
	VM        VMSpec      `toml:"vm"`
	Network   NetworkSpec `toml:"network"`
	Firewall  Firewall    `toml:"firewall"`
	Image     Image       `toml:"image"`
	Provision Provision   `toml:"provision"`
	Sync      Sync        `toml:"sync"`
	Paths     Paths       `toml:"paths"`
}

// Network is one of [[networks]].
type Network struct {
	Name     string      `toml:"name" check:"name" write:"always"`
	Network  NetworkSpec `toml:"network"`
	Firewall Firewall    `toml:"firewall"`
}

// VM is one of [[vms]].
type VM struct {
	Name        string    `toml:"name" check:"vmname" write:"always"`
	NetworkName string    `toml:"network_name" check:"name" write:"always"`
	VM          VMSpec    `toml:"vm"`
	Image       Image     `toml:"image"`
	Provision   Provision `toml:"provision"`
	Sync        Sync      `toml:"sync"`
	Paths       Paths     `toml:"paths"`
	Editor      Editor    `toml:"editor"`
}

// Editor is [editor] or [vms.editor]; the latter takes precedence.
type Editor struct {
	Default string `toml:"default" check:"plain"`
}

// Attachment is one of [[attachments]], identified by (HostPath, VMName). HostPath is absolute and
// contains no symbolic links, TypedPath is the path as the user typed it if that differs, Tag is
// the share's virtiofs token. State is empty, or says why the folder is not mounted again when the
// VM starts (its values are defined in provision/share). Protect makes the host-executed files of
// the folder read-only for the guest.
type Attachment struct {
	HostPath  string `toml:"host_path" check:"abspath" write:"always"`
	VMName    string `toml:"vm_name" check:"vmname" write:"always"`
	Mode      string `toml:"mode" check:"plain" write:"always"`
	Access    string `toml:"access" check:"plain" write:"always"`
	GuestDst  string `toml:"guest_dst" check:"path" write:"always"`
	Tag       string `toml:"tag" check:"tag" write:"always"`
	TypedPath string `toml:"typed_path" check:"path"`
	State     string `toml:"state" check:"plain"`
	Protect   bool   `toml:"protect"`
}

// DefaultConfig returns the values used when the store, or a key in it, does not exist. They are
// those of aivm 0.3 (schema 5), except that sizes are chosen to fit the host, the image is chosen
// from aivm's catalogue, and the first VM is called "aivm".
func DefaultConfig() Config {
	return Config{
		SchemaVersion: Schema,
		Behavior:      Behavior{AutoApproveReadonlySudo: true, Verbose: 1},
		Editor:        Editor{Default: "auto"},
		Defaults: Defaults{
			VM:        defaultVMSpec(),
			Network:   defaultNetworkSpec(),
			Firewall:  defaultFirewall(),
			Image:     defaultImage(),
			Provision: defaultProvision(),
			Sync:      defaultSync(),
			Paths:     defaultPaths(),
		},
	}
}

func defaultVMSpec() VMSpec {
	return VMSpec{Name: "aivm", User: "agent", Password: "agent"}
}

func defaultNetworkSpec() NetworkSpec {
	return NetworkSpec{
		Name: "aivm-net", Bridge: "virbr-aivm", SubnetCIDR: "10.77.0.0/24",
		GatewayIP: "10.77.0.1", DHCPStart: "10.77.0.100", DHCPEnd: "10.77.0.200",
	}
}

func defaultFirewall() Firewall {
	return Firewall{
		Enabled: true, Table: "aivm_sandbox",
		BlockCIDRs: []string{
			"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16",
			"172.16.0.0/12", "192.168.0.0/16", "224.0.0.0/4", "240.0.0.0/4",
		},
	}
}

func defaultImage() Image { return Image{CacheName: "noble-base.img", Name: "auto"} }

func defaultProvision() Provision {
	return Provision{Enabled: true, InstallDocker: true, Packages: []string{
		"git", "jq", "ripgrep", "fd-find", "tmux", "htop", "unzip", "ca-certificates", "curl",
	}}
}

func defaultSync() Sync {
	return Sync{Overwrite: true, Paths: []string{
		"~/.gitconfig", "~/.gitignore", "~/.config/Code/User/settings.json",
		"~/.config/Code/User/keybindings.json", "~/.tmux.conf", "~/.bashrc",
	}}
}

func defaultPaths() Paths {
	return Paths{BaseDir: "/var/lib/libvirt/aivm", StateDir: "~/.cache/aivm"}
}

// emptyNetwork, emptyVM and emptyAttachment return the values of keys that a record does not have.
// They do not follow [defaults]: that section is for VMs not created yet, and editing it must not
// change existing ones.
func emptyNetwork() Network {
	return Network{Network: defaultNetworkSpec(), Firewall: defaultFirewall()}
}

func emptyVM() VM {
	return VM{
		VM: defaultVMSpec(), Image: defaultImage(), Provision: defaultProvision(),
		Sync: defaultSync(), Paths: defaultPaths(),
	}
}

func emptyAttachment() Attachment { return Attachment{Mode: "shared", Access: "rw"} }
