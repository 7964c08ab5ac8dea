package image

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"aivm.dev/aivm/internal/download/downloadtest"
)

// server serves releases as their publishers do, with its own signing key.
type server struct {
	*downloadtest.Server
	key *openpgp.Entity
}

var released = downloadtest.Modified

// testKey makes a key like Ubuntu's: RSA, self-signed.
func testKey(t testing.TB) *openpgp.Entity {
	t.Helper()
	k, err := openpgp.NewEntity("test", "", "t@example.org", &packet.Config{
		RSABits: 2048, Algorithm: packet.PubKeyAlgoRSA, Time: func() time.Time { return released.AddDate(-1, 0, 0) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

var shared struct {
	sync.Once
	key *openpgp.Entity
}

func newServer(t testing.TB) *server {
	t.Helper()
	shared.Do(func() { shared.key = testKey(t) })
	return &server{downloadtest.New(t), shared.key}
}

// publish adds a build of a release to the server, signed at that time.
func (s *server) publish(t testing.TB, name string, data []byte, at time.Time) {
	t.Helper()
	r, ok := Find(name)
	if !ok {
		t.Fatal(name)
	}
	file := r.FileName("amd64")
	sum := fmt.Sprintf("%x", sha256.Sum256(data))
	if r.digits() == 128 {
		sum = fmt.Sprintf("%x", sha512.Sum512(data))
	}
	list := []byte(strings.Repeat("0", r.digits()) + " *other.img\n" + sum + " *" + file + "\n")
	s.Put(r.Dir+"/"+file, downloadtest.File{Data: data, ETag: fmt.Sprintf("%q", sum[:16])})
	s.Put(r.Dir+"/"+r.Sums, downloadtest.File{Data: list})
	if r.Signed {
		s.Put(r.Dir+"/"+r.Sums+".gpg", downloadtest.File{Data: sign(t, s.key, list, at)})
	}
}

func sign(t testing.TB, key *openpgp.Entity, list []byte, at time.Time) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := openpgp.ArmoredDetachSign(&b, key, bytes.NewReader(list), &packet.Config{DefaultHash: crypto.SHA512, Time: func() time.Time { return at }}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// fetcher returns a Fetcher that stands for one process and uses the server.
func (s *server) fetcher(t testing.TB, c Cache, mirrors ...string) *Fetcher {
	return &Fetcher{
		Cache: c, Mirrors: mirrors, Arch: "amd64", Origin: s.URL, Stall: 2 * time.Second,
		TLS:   s.TLS(),
		Keys:  func() (openpgp.EntityList, error) { return openpgp.EntityList{s.key}, nil },
		Now:   func() time.Time { return released.Add(time.Hour) },
		Pause: func(time.Duration) time.Duration { return 0 },
	}
}

// disk returns a raw image of n bytes with random content.
func disk(n int) []byte {
	r := rand.New(rand.NewPCG(uint64(n), 7))
	b := append(qcow2(nil), make([]byte, n)...)
	for i := len(b) - n; i < len(b); i++ {
		b[i] = byte(r.Uint32())
	}
	return b
}

var ubuntuRef = Ref{Kind: KindCatalogue, Name: Default}

func fetch(f *Fetcher, ref Ref) (Entry, bool, error) {
	return f.Fetch(context.Background(), ref, nil)
}
