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

// Guest holds the values for the first boot of a VM.
type Guest struct {
	// InstanceID identifies this first boot. A VM created again with the same name needs
	// another one. It is used as a directory name in the guest.
	InstanceID string
	// Hostname is the VM's SSH alias.
	Hostname string
	// User is the name of the guest user.
	User string
	// AuthorizedKeys lists public key lines, at least one.
	AuthorizedKeys []string
	// HostKeyPrivatePEM and HostKeyPublic are the guest's ed25519 host key pair: an OpenSSH
	// PEM block and a public key line.
	HostKeyPrivatePEM string
	HostKeyPublic     string
	// MAC is the address of the only network device.
	MAC string
}

// A FieldError reports a field of a Guest with an invalid value.
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

// reserved lists the users and groups of a new Debian or Ubuntu system. With such a name
// useradd would fail, or the existing account would be changed.
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

// Check returns a *FieldError if the first boot could not work with these values.
func (g Guest) Check() error {
	if !instanceRE.MatchString(g.InstanceID) {
		return &FieldError{"instance id", g.InstanceID, "use at most 128 letters, digits, '-' and '_'"}
	}
	if !hostnameRE.MatchString(g.Hostname) {
		return &FieldError{"host name", g.Hostname, "use at most 63 of a-z, 0-9 and '-', starting with a letter"}
	}
	if err := CheckUser(g.User); err != nil {
		return err
	}
	if len(g.AuthorizedKeys) == 0 {
		return &FieldError{"keys", "", "there is no public key, so no login would be possible"}
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

// CheckUser refuses a user name that useradd, sudo or the base system of a guest does not
// accept.
func CheckUser(name string) error {
	switch {
	case !userRE.MatchString(name):
		return &FieldError{"user", name, "use at most 32 of a-z, 0-9, '_' and '-', starting with a letter or '_'"}
	case reserved[name] || strings.HasPrefix(name, "systemd-"):
		return &FieldError{"user", name, "the guest's system uses this name for a user or group"}
	}
	return nil
}

// checkKeyLine refuses a line that is not one public key. The error does not include the
// line, since it may be a private key given by mistake. cloud-init splits files with
// Python's splitlines, for which many other characters than "\n" end a line.
func checkKeyLine(field, line string) error {
	ends := func(r rune) bool { return r != '\t' && unicode.IsControl(r) || r == '\u2028' || r == '\u2029' }
	if !utf8.ValidString(line) || strings.ContainsFunc(line, ends) {
		return &FieldError{field, "", "a public key must be one line of text without control characters"}
	}
	if _, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line)); err != nil {
		return &FieldError{field, "", "it is not a public key line"}
	}
	return nil
}

// checkHostKey checks that the public key, which aivm pins, belongs to the private key that
// the guest gets.
func (g Guest) checkHostKey() error {
	signer, err := ssh.ParsePrivateKey([]byte(g.HostKeyPrivatePEM))
	if err != nil {
		return &FieldError{"host key", "", "it is not an unencrypted private key"}
	}
	if t := signer.PublicKey().Type(); t != ssh.KeyAlgoED25519 {
		return &FieldError{"host key", t, "its type must be " + ssh.KeyAlgoED25519}
	}
	if err := checkKeyLine("host key", g.HostKeyPublic); err != nil {
		return err
	}
	pub, _, options, _, err := ssh.ParseAuthorizedKey([]byte(g.HostKeyPublic))
	if err != nil || len(options) > 0 || !bytes.Equal(pub.Marshal(), signer.PublicKey().Marshal()) {
		return &FieldError{"host key", "", "the public key does not belong to the private key"}
	}
	return nil
}

func checkMAC(s string) error {
	mac, err := net.ParseMAC(s)
	if err != nil || len(mac) != 6 {
		return &FieldError{"MAC address", s, "it must be six hexadecimal pairs"}
	}
	if mac[0]&1 != 0 {
		return &FieldError{"MAC address", s, "it is a multicast address, which a network device cannot have"}
	}
	return nil
}
