package image

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// The embedded keys are Ubuntu's two, and no others.
func TestEmbeddedKeys(t *testing.T) {
	keys, err := chooseKeys(nil, embeddedKeys)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, k := range keys {
		got = append(got, fmt.Sprintf("%X", k.PrimaryKey.Fingerprint))
	}
	want := []string{"D2EB44626FDDC30B513D5BB71A5D6C4C7DB87C81", "4A3CE3CD565D7EB5C810E2B97FF3F408476CF100"}
	if !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
	for _, k := range keys {
		if k.Revoked(time.Now()) || len(k.Subkeys) > 0 {
			t.Errorf("%X: %v", k.PrimaryKey.Fingerprint, k)
		}
	}
	// The host's keyring gives keys too, whatever it contains.
	if keys, err := ubuntuKeys(); err != nil || len(keys) == 0 {
		t.Errorf("%v %v", keys, err)
	}
}

func serialize(t *testing.T, k *openpgp.Entity) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := k.Serialize(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestNewerKeyringCounts(t *testing.T) {
	at := func(year int) *openpgp.Entity {
		k, err := openpgp.NewEntity("k", "", "k@example.org", &packet.Config{
			Algorithm: packet.PubKeyAlgoEdDSA, Time: func() time.Time { return time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC) },
		})
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	older, newer := at(2005), at(2024)
	for _, tt := range []struct {
		name string
		host []byte
		want []byte
	}{
		{"a newer one", serialize(t, newer), newer.PrimaryKey.Fingerprint},
		{"an older one", serialize(t, older), nil},
		{"the same", embeddedKeys, nil},
		{"none", nil, nil},
		{"rubbish", []byte("not a keyring"), nil},
		{"with more", append(serialize(t, older), serialize(t, newer)...), older.PrimaryKey.Fingerprint},
	} {
		got, err := chooseKeys(tt.host, embeddedKeys)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if tt.want == nil {
			own, _ := chooseKeys(nil, embeddedKeys)
			tt.want = own[0].PrimaryKey.Fingerprint
		}
		if !bytes.Equal(got[0].PrimaryKey.Fingerprint, tt.want) {
			t.Errorf("%s: %X", tt.name, got[0].PrimaryKey.Fingerprint)
		}
	}
}

// Signatures made by gpg with a test key: binary and armoured. A text longer by a byte is refused.
func TestCheckSignatureOfGnuPG(t *testing.T) {
	key, err := os.ReadFile("testdata/gpg/key.gpg")
	if err != nil {
		t.Fatal(err)
	}
	keys, err := openpgp.ReadKeyRing(bytes.NewReader(key))
	if err != nil {
		t.Fatal(err)
	}
	list, err := os.ReadFile("testdata/gpg/SHA256SUMS")
	if err != nil {
		t.Fatal(err)
	}
	when := func() time.Time { return time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC) }
	for _, name := range []string{"SHA256SUMS.gpg", "SHA256SUMS.asc"} {
		sig, err := os.ReadFile("testdata/gpg/" + name)
		if err != nil {
			t.Fatal(err)
		}
		s, err := checkSignature(keys, list, sig, when)
		if err != nil || len(s.Fingerprint) != 40 || s.At.IsZero() {
			t.Errorf("%s: %+v %v", name, s, err)
		}
		if _, err := checkSignature(keys, append(list, '\n'), sig, when); err == nil {
			t.Errorf("%s: a longer list is accepted", name)
		}
		if _, err := checkSignature(keys, list, sig[:len(sig)/2], when); err == nil {
			t.Errorf("%s: half a signature is accepted", name)
		}
	}
}
