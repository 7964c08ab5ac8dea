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

// embeddedKeys are the keys that sign the lists of Ubuntu's cloud images, from
// Debian's package ubuntu-keyring; a test holds them to their fingerprints.
//
//go:embed keys/ubuntu-cloudimage-keyring.gpg
var embeddedKeys []byte

// hostKeys is where packages put the same keyring: what the distribution
// renewed or withdrew is there first.
const hostKeys = "/usr/share/keyrings/ubuntu-cloudimage-keyring.gpg"

// ubuntuKeys is the machine's own keyring, unless ours is newer.
func ubuntuKeys() (openpgp.EntityList, error) {
	b, err := os.ReadFile(hostKeys)
	if err != nil {
		b = nil // absent or not for us: ours is as good
	}
	return chooseKeys(b, embeddedKeys)
}

// chooseKeys returns the keyring whose most recent signature is the younger
// one; of equals the machine's. One that cannot be read is passed over.
func chooseKeys(host, own []byte) (openpgp.EntityList, error) {
	ours, err := openpgp.ReadKeyRing(bytes.NewReader(own))
	if err != nil {
		return nil, fmt.Errorf("reading Ubuntu's keys: %w", err)
	}
	theirs, err := openpgp.ReadKeyRing(bytes.NewReader(host))
	if err != nil || len(theirs) == 0 || youngest(theirs).Before(youngest(ours)) {
		return ours, nil
	}
	return theirs, nil
}

// youngest is the time of the most recent signature on a keyring: a key that
// is renewed, revoked or added has one.
func youngest(keys openpgp.EntityList) time.Time {
	var t time.Time
	see := func(s *packet.Signature) {
		if s != nil && s.CreationTime.After(t) {
			t = s.CreationTime
		}
	}
	for _, k := range keys {
		for _, r := range k.Revocations {
			see(r)
		}
		for _, id := range k.Identities {
			see(id.SelfSignature)
			for _, r := range id.Revocations {
				see(r)
			}
		}
		for _, s := range k.Subkeys {
			see(s.Sig)
			for _, r := range s.Revocations {
				see(r)
			}
		}
	}
	return t
}

// signed is who signed a list, and when.
type signed struct {
	Fingerprint string
	At          time.Time
}

// checkSignature verifies a detached signature, armoured or not, over list.
// Any of the keys may have made it.
func checkSignature(keys openpgp.EntityList, list, sig []byte, now func() time.Time) (signed, error) {
	r := io.Reader(bytes.NewReader(sig))
	if bytes.HasPrefix(bytes.TrimSpace(sig), []byte("-----BEGIN")) {
		block, err := armor.Decode(r)
		if err != nil || block.Type != openpgp.SignatureType {
			return signed{}, ui.Failed("what should be the signature is none")
		}
		r = block.Body
	}
	s, signer, err := openpgp.VerifyDetachedSignature(keys, bytes.NewReader(list), r, &packet.Config{Time: now, MinRSABits: 2048})
	switch {
	case errors.Is(err, pgperrors.ErrUnknownIssuer):
		return signed{}, ui.Failed("the list of digests is signed by none of Ubuntu's keys").
			Hint(ui.CmdFor("if Ubuntu has a new key", "sudo apt-get install --only-upgrade ubuntu-keyring"))
	case errors.Is(err, pgperrors.ErrSignatureExpired) && s != nil && s.CreationTime.After(now()):
		return signed{}, ui.Failed("the signature was made at %s, which is in the future for this machine", s.CreationTime.UTC().Format(time.DateTime)).
			Hint(ui.Remark("set the clock: date; timedatectl"))
	case err != nil:
		return signed{}, ui.Failed("the signature of the list of digests is not good: %w", err)
	}
	return signed{Fingerprint: fmt.Sprintf("%X", signer.PrimaryKey.Fingerprint), At: s.CreationTime.UTC()}, nil
}
