package cloudinit

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"

	"aivm.dev/aivm/internal/lazyre"
)

// Guest is everything the first boot of a VM depends on.
type Guest struct {
	// InstanceID names this first boot: a VM made again under the same name
	// needs another one. It becomes a directory name in the guest.
	InstanceID string
	// Hostname is the VM's SSH alias.
	Hostname string
	// User is the one login account.
	User string
	// AuthorizedKeys are public key lines; at least one.
	AuthorizedKeys []string
	// HostKeyPrivatePEM and HostKeyPublic are the ed25519 key pair the guest
	// shows to SSH clients: an OpenSSH PEM block and a public key line.
	HostKeyPrivatePEM string
	HostKeyPublic     string
	// MAC is the address of the one network device.
	MAC string
}

// A FieldError says which field of a Guest cannot be handed to cloud-init.
type FieldError struct {
	Field string
	Value string // empty for key material
	Why   string
}

func (e *FieldError) Error() string {
	if e.Value == "" {
		return fmt.Sprintf("guest %s: %s", e.Field, e.Why)
	}
	return fmt.Sprintf("guest %s %q: %s", e.Field, e.Value, e.Why)
}

var (
	instanceRE = lazyre.New(`^[A-Za-z0-9][A-Za-z0-9_-]{0,127}$`)
	hostnameRE = lazyre.New(`^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)
	userRE     = lazyre.New(`^[a-z_][a-z0-9_-]{0,31}$`)
)

// reserved are names that exist as a user or a group in a fresh Debian or
// Ubuntu system: useradd would fail, or worse, change the existing account.
var reserved = func() map[string]bool {
	m := map[string]bool{}
	for name := range strings.FieldsSeq(`root daemon bin sys sync games man lp mail news uucp proxy
		www-data backup list irc gnats nobody nogroup messagebus sshd landscape pollinate syslog uuidd
		tcpdump tss usbmux fwupd-refresh dhcpcd polkitd adm tty disk dialout fax voice cdrom floppy
		tape sudo audio dip operator src shadow utmp video sasl plugdev staff users kmem input render
		sgx kvm lxd netdev crontab ssh ssh_keys _ssh _apt _chrony rdma admin docker`) {
		m[name] = true
	}
	return m
}()

// Check refuses a Guest whose first boot could not work.
func (g Guest) Check() error {
	if !instanceRE.MatchString(g.InstanceID) {
		return &FieldError{"instance id", g.InstanceID, "want letters, digits, '-' and '_', at most 128"}
	}
	if !hostnameRE.MatchString(g.Hostname) {
		return &FieldError{"host name", g.Hostname, "want a-z, 0-9 and '-', starting with a letter, at most 63"}
	}
	if err := CheckUser(g.User); err != nil {
		return err
	}
	if len(g.AuthorizedKeys) == 0 {
		return &FieldError{"keys", "", "there is no public key, so nobody could log in"}
	}
	for i, line := range g.AuthorizedKeys {
		if err := checkKeyLine(fmt.Sprintf("key %d", i+1), line); err != nil {
			return err
		}
	}
	if err := g.checkHostKey(); err != nil {
		return err
	}
	return checkMAC(g.MAC)
}

// CheckUser refuses an account name that Linux, sudo or the base system of a
// guest would stumble over.
func CheckUser(name string) error {
	switch {
	case !userRE.MatchString(name):
		return &FieldError{"user", name, "want a-z, 0-9, '_' and '-', starting with a letter or '_', at most 32"}
	case reserved[name] || strings.HasPrefix(name, "systemd-"):
		return &FieldError{"user", name, "this name belongs to the system of the guest"}
	}
	return nil
}

// checkKeyLine keeps the line itself out of the message: it may be a private
// key in the wrong place. cloud-init takes files apart with Python's
// splitlines, for which far more than "\n" ends a line.
func checkKeyLine(field, line string) error {
	ends := func(r rune) bool { return r != '\t' && unicode.IsControl(r) || r == '\u2028' || r == '\u2029' }
	if !utf8.ValidString(line) || strings.ContainsFunc(line, ends) {
		return &FieldError{field, "", "a public key is one line of plain text"}
	}
	if _, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line)); err != nil {
		return &FieldError{field, "", "not a public key line"}
	}
	return nil
}

// checkHostKey makes sure that the pinned key is the one the guest will show.
func (g Guest) checkHostKey() error {
	signer, err := ssh.ParsePrivateKey([]byte(g.HostKeyPrivatePEM))
	if err != nil {
		return &FieldError{"host key", "", "the private half is not an unencrypted private key"}
	}
	if t := signer.PublicKey().Type(); t != ssh.KeyAlgoED25519 {
		return &FieldError{"host key", t, "want " + ssh.KeyAlgoED25519}
	}
	if err := checkKeyLine("host key", g.HostKeyPublic); err != nil {
		return err
	}
	pub, _, options, _, err := ssh.ParseAuthorizedKey([]byte(g.HostKeyPublic))
	if err != nil || len(options) > 0 || !bytes.Equal(pub.Marshal(), signer.PublicKey().Marshal()) {
		return &FieldError{"host key", "", "the public half does not belong to the private half"}
	}
	return nil
}

func checkMAC(s string) error {
	mac, err := net.ParseMAC(s)
	if err != nil || len(mac) != 6 {
		return &FieldError{"MAC address", s, "want six hexadecimal pairs"}
	}
	if mac[0]&1 != 0 {
		return &FieldError{"MAC address", s, "a group address cannot be a network device's own"}
	}
	return nil
}
