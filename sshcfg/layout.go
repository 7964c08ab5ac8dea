package sshcfg

import (
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"aivm.dev/aivm/internal/ui"
)

// ConfigEnv is the environment variable that names the file for the Include line, instead
// of ~/.ssh/config.
const ConfigEnv = "AIVM_SSH_CONFIG"

// Layout holds the paths of all files this package uses. All paths are absolute.
type Layout struct {
	// Home is the home directory ssh uses: SSHHome outside tests.
	Home string
	// ConfigDir holds one 0600 file per VM; mode 0700.
	ConfigDir string
	// StateDir holds aivm's client key, the lock, the backup, and one directory per VM.
	StateDir string
	// SSHConfigPath is the file that gets the Include line; "" means Home/.ssh/config.
	SSHConfigPath string
	// SystemConfig is the file ssh reads after the user's; "" means /etc/ssh/ssh_config.
	// Verify reads it to name the line an option comes from.
	SystemConfig string
	// Guests lists the folders VMs can write; see Guarded.
	Guests []GuestFolder

	// beforeSwap, if set, is called before the last check of the user's file and its
	// replacement. Tests change the file in it.
	beforeSwap func()
}

// DefaultLayout returns the Layout of a real run. It follows the XDG base directory
// specification: relative XDG paths are ignored, and the defaults are below $HOME (below
// home if HOME is not set). home is the directory where ssh reads .ssh/config: pass the
// result of SSHHome.
func DefaultLayout(home string, getenv func(string) string) Layout {
	base := home
	if h := getenv("HOME"); filepath.IsAbs(h) {
		base = h
	}
	xdg := func(name, fallback string) string {
		if d := getenv(name); filepath.IsAbs(d) {
			return filepath.Clean(d)
		}
		return filepath.Join(base, fallback)
	}
	l := Layout{
		Home:      home,
		ConfigDir: filepath.Join(xdg("XDG_CONFIG_HOME", ".config"), "aivm", "ssh"),
		StateDir:  filepath.Join(xdg("XDG_STATE_HOME", ".local/state"), "aivm"),
	}
	if p := getenv(ConfigEnv); p != "" {
		l.SSHConfigPath = expandHome(p, base)
	}
	return l
}

// SSHHome returns the home directory OpenSSH uses: that of the real user ID in the password
// database, regardless of $HOME (ssh.c, getpwuid(getuid())). ssh would not read an alias
// written below another $HOME. A static binary reads /etc/passwd only; for a user who is
// not listed there (LDAP, sssd), $HOME is used.
func SSHHome() (string, error) {
	u, err := user.LookupId(strconv.Itoa(os.Getuid()))
	if err == nil && filepath.IsAbs(u.HomeDir) {
		return u.HomeDir, nil
	}
	h, herr := os.UserHomeDir()
	if herr != nil || !filepath.IsAbs(h) {
		return "", ui.Failed("the home directory of user ID %d is unknown", os.Getuid()).
			Hint(ui.Remark("set HOME to an absolute path"))
	}
	return h, nil
}

// SSHArgs returns the arguments that make ssh, scp and sftp read the configuration of this
// Layout: none if it is the file they read by default, else "-F FILE". With -F, ssh does
// not read /etc/ssh/ssh_config.
func (l Layout) SSHArgs() []string {
	if h, err := SSHHome(); err == nil && filepath.Join(h, ".ssh", "config") == l.sshConfig() {
		return nil
	}
	return []string{"-F", l.sshConfig()}
}

// ConfPath returns the path of the stanza file of the VM with this alias.
func (l Layout) ConfPath(alias string) string { return filepath.Join(l.ConfigDir, alias+".conf") }

// BackupPath returns the path of the copy of the user's configuration from before aivm's
// first change to it.
func (l Layout) BackupPath() string { return filepath.Join(l.StateDir, "ssh_config.before-aivm") }

func (l Layout) sshConfig() string {
	if l.SSHConfigPath != "" {
		return l.SSHConfigPath
	}
	return filepath.Join(l.Home, ".ssh", "config")
}

func (l Layout) systemConfig() string {
	if l.SystemConfig != "" {
		return l.SystemConfig
	}
	return "/etc/ssh/ssh_config"
}

// madePath returns the path of the record that aivm made the user's configuration.
func (l Layout) madePath() string { return filepath.Join(l.StateDir, madeName) }

func (l Layout) lockPath() string { return filepath.Join(l.StateDir, lockName) }

const (
	ownKeyName = "id_ed25519"
	lockName   = "ssh.lock"
	madeName   = "ssh_config.made"
)

// VMDir returns the directory with the state of one VM.
func (l Layout) VMDir(vm string) string { return filepath.Join(l.StateDir, vm) }

// checkVM refuses VM names whose directory would be outside StateDir, or would be one of
// aivm's other files in it.
func checkVM(vm string) error {
	switch vm {
	case "", ".", "..", ownKeyName, ownKeyName + ".pub", lockName, "ssh_config.before-aivm", madeName:
		return ui.Refused("%q cannot name a VM's state directory", vm)
	}
	if strings.ContainsAny(vm, "/\x00\r\n") {
		return ui.Refused("%q cannot name a VM's state directory", vm)
	}
	return nil
}

// ValidAlias accepts names of [a-z0-9-], at most 63 characters, starting with a letter or a
// digit. Capitals are refused because editors convert the host part of a remote URI to
// lower case; other characters have a meaning in ssh, URIs or shells.
func ValidAlias(s string) error {
	bad := func(why string) error {
		return ui.Refused("ssh alias %q %s", s, why).
			Hint(ui.Remark("use lower-case letters, digits and hyphens, at most 63, starting with a letter or digit"))
	}
	if s == "" {
		return bad("is empty")
	}
	if len(s) > 63 {
		return bad("is longer than 63 characters")
	}
	for i, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
		case c == '-' && i > 0:
		case c == '-':
			return bad("starts with a hyphen")
		default:
			return bad("contains a character that is not allowed")
		}
	}
	return nil
}

// expandHome replaces a leading "~" by home in "~" and "~/PATH".
func expandHome(p, home string) string {
	if p == "~" {
		return home
	}
	if rest, ok := strings.CutPrefix(p, "~/"); ok {
		return filepath.Join(home, rest)
	}
	return p
}
