package script

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"aivm.dev/aivm/provision/image"
)

// imageserver serves one release over https as Ubuntu's server does, signed with its own key:
// imageserver DIR. It writes url, ca.pem, keys.gpg, sum and disk.img to DIR.
func imageserver() {
	dir := os.Args[1]
	r, _ := image.Find(image.Default)
	file := r.FileName(image.Arch())
	disk := make([]byte, 3<<20)
	disk[510], disk[511] = 0x55, 0xaa
	list := fmt.Appendf(nil, "%x *%s\n", sha256.Sum256(disk), file)
	key, err := openpgp.NewEntity("script", "", "s@example.org", &packet.Config{Algorithm: packet.PubKeyAlgoRSA, RSABits: 2048})
	must(err)
	var sig, ring bytes.Buffer
	must(openpgp.ArmoredDetachSign(&sig, key, bytes.NewReader(list), &packet.Config{DefaultHash: crypto.SHA512}))
	must(key.Serialize(&ring))
	files := map[string][]byte{r.Dir + "/" + file: disk, r.Dir + "/" + r.Sums: list, r.Dir + "/" + r.Sums + ".gpg": sig.Bytes()}
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		b, ok := files[req.URL.Path]
		if !ok {
			http.NotFound(w, req)
			return
		}
		http.ServeContent(w, req, "", key.PrimaryKey.CreationTime, bytes.NewReader(b))
	}))
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	for name, b := range map[string][]byte{"ca.pem": ca, "keys.gpg": ring.Bytes(), "sum": list[:64], "disk.img": disk, "url": []byte(s.URL)} {
		must(os.WriteFile(filepath.Join(dir, name+".new"), b, 0o644))
		must(os.Rename(filepath.Join(dir, name+".new"), filepath.Join(dir, name)))
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGINT, unix.SIGTERM)
	must(os.WriteFile(filepath.Join(dir, "ready"), nil, 0o644))
	<-stop
}

// cmdHostkeys installs a file as the host's keyring of Ubuntu's image keys, in the tests' mount namespace
// only: hostkeys FILE. With "!" it removes it.
func cmdHostkeys(ts *testscript.TestScript, neg bool, args []string) {
	const path = "/usr/share/keyrings/ubuntu-cloudimage-keyring.gpg"
	if neg {
		ts.Check(os.Remove(path))
		return
	}
	ts.Check(os.WriteFile(path, []byte(ts.ReadFile(args[0])), 0o644))
	ts.Defer(func() { _ = os.Remove(path) })
}
