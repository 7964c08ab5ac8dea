package record

import (
	"crypto/sha512"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"strings"
	"testing"
)

// mirror is an HTTPS server with one build of Debian 12. Only its certificate is trusted.
type mirror struct {
	*httptest.Server
	image  []byte
	broken bool // the image does not match SHA512SUMS
}

// theMirror is one server for all cases, because Go reads the trusted certificates only once in a
// process.
var theMirror *mirror

const certFile = top + ".pem"

func startMirror(t *testing.T) {
	t.Helper()
	theMirror = &mirror{}
	theMirror.Server = httptest.NewUnstartedServer(theMirror)
	theMirror.Config.ErrorLog = nil
	theMirror.StartTLS()
	b := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: theMirror.Certificate().Raw})
	if err := os.WriteFile(certFile, b, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SSL_CERT_FILE", certFile)
	t.Cleanup(func() { theMirror.Close(); _ = os.Remove(certFile) })
}

func (m *mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	const file = "debian-12-genericcloud-amd64.qcow2"
	w.Header().Set("Last-Modified", day.AddDate(0, 0, -3).Format(http.TimeFormat))
	switch path.Base(r.URL.Path) {
	case "SHA512SUMS":
		_, _ = fmt.Fprintf(w, "%x  %s\n", sha512.Sum512(m.image), file)
	case file:
		b := m.image
		if m.broken {
			b = []byte(strings.ToUpper(string(b)))
		}
		http.ServeContent(w, r, file, day.AddDate(0, 0, -3), strings.NewReader(string(b)))
	default:
		http.NotFound(w, r)
	}
}

// mirrored has the server as a mirror in the config.
func mirrored(w *world) {
	theMirror.image, theMirror.broken = imageBytes("debian"), false
	w.write(storePath, "schema_version = 5\n\n[defaults.image]\nmirror = [\""+theMirror.URL+"\"]\n", 0o600)
}

func mirrorBroken(*world) { theMirror.broken = true }

// mirrorNewer has a later build on the server.
func mirrorNewer(*world) { theMirror.image = imageBytes("debian, a later build") }

var mirrorRows = []row{
	{"mirror-fetch", mirrored, "image fetch debian-12 --yes", true},
	{"mirror-fetch-again", all(mirrored, ran("image fetch debian-12 --yes")), "image fetch debian-12 --yes", true},
	{"mirror-fetch-newer", all(mirrored, ran("image fetch debian-12 --yes"), mirrorNewer), "image fetch debian-12 --again --yes", true},
	{"mirror-fetch-broken", all(mirrored, mirrorBroken), "image fetch debian-12 --yes", false},
	{"mirror-create", mirrored, "vm create box --yes --image debian-12", true},
	{"mirror-list", all(mirrored, ran("image fetch debian-12 --yes")), "image list", false},
	{"mirror-verify", all(mirrored, ran("image fetch debian-12 --yes")), "image verify debian-12", false},
	{"mirror-remove", all(mirrored, ran("image fetch debian-12 --yes")), "image remove debian-12 --yes", true},
}
