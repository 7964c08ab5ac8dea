package image

import (
	"bytes"
	_ "embed" // Ubuntu's keys
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"aivm.dev/aivm/internal/ui"
)

// embeddedKeys are the keys that sign the lists of Ubuntu's cloud images, from Debian's package
// ubuntu-keyring; a test checks their fingerprints.
//
//go:embed keys/ubuntu-cloudimage-keyring.gpg
var embeddedKeys []byte

// hostKeys is where packages install the same keyring. Keys that the distribution renewed or
// revoked are there first.
const hostKeys = "/usr/share/keyrings/ubuntu-cloudimage-keyring.gpg"

// ubuntuKeys returns the installed keyring, unless the embedded one is newer.
func ubuntuKeys() (openpgp.EntityList, error) {
	b, err := os.ReadFile(hostKeys)
	if err != nil {
		b = nil // absent or unreadable: use the embedded one
	}
	return chooseKeys(b, embeddedKeys)
}

// chooseKeys returns the keyring with the most recent signature; if both are equal, the host's. A
// host keyring that cannot be read is ignored.
func chooseKeys(hostRing, embeddedRing []byte) (openpgp.EntityList, error) {
	embedded, err := openpgp.ReadKeyRing(bytes.NewReader(embeddedRing))
	if err != nil {
		return nil, fmt.Errorf("reading Ubuntu's keys: %w", err)
	}
	installed, err := openpgp.ReadKeyRing(bytes.NewReader(hostRing))
	if err != nil || len(installed) == 0 || youngest(installed).Before(youngest(embedded)) {
		return embedded, nil
	}
	return installed, nil
}

// youngest returns the time of the most recent signature on a keyring: renewing, revoking or adding
// a key makes one.
func youngest(keys openpgp.EntityList) time.Time {
	var t time.Time
	consider := func(s *packet.Signature) {
		if s != nil && s.CreationTime.After(t) {
			t = s.CreationTime
		}
	}
	for _, k := range keys {
		for _, r := range k.Revocations {
			consider(r)
		}
		for _, id := range k.Identities {
			consider(id.SelfSignature)
			for _, r := range id.Revocations {
				consider(r)
			}
		}
		for _, s := range k.Subkeys {
			consider(s.Sig)
			for _, r := range s.Revocations {
				consider(r)
			}
		}
	}
	return t
}

// signed says who signed a list, and when.
type signed struct {
	Fingerprint string
	At          time.Time
}

// checkSignature verifies a detached signature of list, armoured or not, made by any of the keys.
func checkSignature(keys openpgp.EntityList, list, sig []byte, now func() time.Time) (signed, error) {
	r := io.Reader(bytes.NewReader(sig))
	if bytes.HasPrefix(bytes.TrimSpace(sig), []byte("-----BEGIN")) {
		block, err := armor.Decode(r)
		if err != nil || block.Type != openpgp.SignatureType {
			return signed{}, ui.Failed("the signature file holds no OpenPGP signature")
		}
		r = block.Body
	}
	s, signer, err := openpgp.VerifyDetachedSignature(keys, bytes.NewReader(list), r, &packet.Config{Time: now, MinRSABits: 2048})
	switch {
	case errors.Is(err, pgperrors.ErrUnknownIssuer):
		return signed{}, ui.Failed("the list of digests is not signed by one of Ubuntu's keys").
			Hint(ui.CmdFor("if Ubuntu has a new key", "sudo apt-get install --only-upgrade ubuntu-keyring"))
	case errors.Is(err, pgperrors.ErrSignatureExpired) && s != nil && s.CreationTime.After(now()):
		return signed{}, ui.Failed("the signature was made at %s, which is in the future by this machine's clock", s.CreationTime.UTC().Format(time.DateTime)).
			Hint(ui.CmdFor("check the clock", "timedatectl"))
	case err != nil:
		return signed{}, ui.Failed("the signature of the list of digests is invalid: %w", err)
	}
	return signed{Fingerprint: fmt.Sprintf("%X", signer.PrimaryKey.Fingerprint), At: s.CreationTime.UTC()}, nil
}
