package sshcfg

import (
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"aivm.dev/aivm/internal/ui"
)

// ConfigEnv names the environment variable that puts the Include line into
// another file than ~/.ssh/config.
const ConfigEnv = "AIVM_SSH_CONFIG"

// Layout says where everything of this package lies. All paths are absolute.
type Layout struct {
	// Home is the home directory ssh uses: SSHHome outside tests.
	Home string
	// ConfigDir holds one 0600 file per VM; mode 0700.
	ConfigDir string
	// StateDir holds our key, the lock, the backup, and a directory per VM.
	StateDir string
	// SSHConfigPath is the file that gets the Include line; empty means
	// Home/.ssh/config.
	SSHConfigPath string
	// SystemConfig is read after the user's file, by ssh and by Verify (to
	// name the line that adds something); empty means /etc/ssh/ssh_config.
	SystemConfig string
	// Guests are the folders VMs can write; see Guarded.
	Guests []GuestFolder

	// beforeSwap, if set, is called between the last look at the user's file and
	// its replacement: tests change it then.
	beforeSwap func()
}

// DefaultLayout follows the XDG base directory specification: a relative
// XDG path is ignored, and defaults lie below $HOME (below home if HOME is not
// set). home is where ssh looks for .ssh/config: pass SSHHome's result.
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

// SSHHome is the home directory OpenSSH uses: that of the real user id in the
// password database, whatever $HOME says (ssh.c, getpwuid(getuid())). Writing
// below another $HOME would make an alias that ssh never sees. A static binary
// reads /etc/passwd only; for a user it does not list (LDAP, sssd) $HOME is the
// best answer there is.
func SSHHome() (string, error) {
	u, err := user.LookupId(strconv.Itoa(os.Getuid()))
	if err == nil && filepath.IsAbs(u.HomeDir) {
		return u.HomeDir, nil
	}
	h, herr := os.UserHomeDir()
	if herr != nil || !filepath.IsAbs(h) {
		return "", ui.Failed("cannot tell the home directory of user id %d", os.Getuid()).
			Hint(ui.Remark("set HOME to an absolute path"))
	}
	return h, nil
}

// SSHArgs is what ssh, scp and sftp need before their other arguments to read
// the configuration this Layout writes: nothing when it is the one they read
// anyway, else "-F FILE". With -F ssh does not read /etc/ssh/ssh_config.
func (l Layout) SSHArgs() []string {
	if h, err := SSHHome(); err == nil && filepath.Join(h, ".ssh", "config") == l.sshConfig() {
		return nil
	}
	return []string{"-F", l.sshConfig()}
}

// ConfPath is the file of the VM with this alias.
func (l Layout) ConfPath(alias string) string { return filepath.Join(l.ConfigDir, alias+".conf") }

// BackupPath is where the user's configuration was saved before our first
// change to it.
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

func (l Layout) lockPath() string { return filepath.Join(l.StateDir, lockName) }

const (
	ownKeyName = "id_ed25519"
	lockName   = "ssh.lock"
)

// VMDir is the directory with the state of one VM.
func (l Layout) VMDir(vm string) string { return filepath.Join(l.StateDir, vm) }

// checkVM keeps a VM's name from leaving StateDir or meeting a file of ours.
func checkVM(vm string) error {
	switch vm {
	case "", ".", "..", ownKeyName, ownKeyName + ".pub", lockName, "ssh_config.before-aivm":
		return ui.Refused("%q cannot name a VM's state directory", vm)
	}
	if strings.ContainsAny(vm, "/\x00\r\n") {
		return ui.Refused("%q cannot name a VM's state directory", vm)
	}
	return nil
}

// ValidAlias accepts [a-z0-9-], at most 63 characters, starting with a letter
// or a digit. Capitals are refused since editors lower-case the authority of a
// remote URI, and everything else since ssh, URIs or shells give it a meaning.
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
			return bad("holds a character that is not allowed")
		}
	}
	return nil
}

// expandHome turns "~" and "~/x" into paths below home.
func expandHome(p, home string) string {
	if p == "~" {
		return home
	}
	if rest, ok := strings.CutPrefix(p, "~/"); ok {
		return filepath.Join(home, rest)
	}
	return p
}
