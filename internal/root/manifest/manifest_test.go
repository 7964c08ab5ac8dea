package manifest_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/manifest"
	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/root/rootfile"
	"aivm.dev/aivm/internal/root/roottest"
)

// Read returns a manifest of this format, or an error that names the file. It
// recognises a later version whatever else is in the file.
func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"version":1,"owner":0,"wall":{"network":"n"},"local":["10.0.0.0/8"]}`))
	f.Add([]byte(`{"version":2,"wall":"other"}`))
	f.Add([]byte(`{"version":1,"folders":[{"src":"/x","vm_key":"0-a"}]}`))
	f.Add([]byte(`{"version":0}`))
	path := filepath.Join(f.TempDir(), "m.json")
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		var n manifest.Net
		err := manifest.Read(path, &n)
		if os.Geteuid() != 0 {
			return // refused, because root does not own it
		}
		if err != nil && !strings.Contains(err.Error(), path) && len(b) > 0 {
			t.Errorf("the error does not name the file: %v", err)
		}
		if err == nil && n.Version > manifest.Version {
			t.Errorf("version %d was accepted", n.Version)
		}
		var v manifest.VM
		if verr := manifest.Read(path, &v); errors.Is(err, manifest.ErrNewer) != errors.Is(verr, manifest.ErrNewer) {
			t.Errorf("newer as a Net and not as a VM, or the reverse: %v, %v", err, verr)
		}
		if err == nil {
			_ = n.Wall.Check()
		}
	})
}

// A manifest of a later aivm is refused by an error that names the file, and not
// changed, also for root, who may replace a damaged one.
func TestManifestOfALaterAivm(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.Stage(t, work, unix.MS_PRIVATE)
	release, err := manifest.Lock()
	roottest.Must(t, err)
	release()
	for path, text := range map[string]string{
		rootfile.NetManifestPath("later"):   `{"version":9,"wall":["of","another","shape"]}`,
		rootfile.VMManifestPath("0-later"):  `{"version":9,"folders":{}}`,
		rootfile.NetManifestPath("damaged"): `{"version":`,
	} {
		roottest.Must(t, os.WriteFile(path, []byte(text), 0o644))
		var n manifest.Net
		if err := manifest.Read(path, &n); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, caller := range []int{0, 1000} {
		if err := manifest.CheckOwner("later", caller); !errors.Is(err, manifest.ErrNewer) {
			t.Errorf("uid %d: %v", caller, err)
		}
	}
	if err := manifest.CheckOwner("damaged", 0); err != nil {
		t.Errorf("root may not replace a damaged one: %v", err)
	}
	if err := manifest.UpdateFolders("0-later", func(l []record.Bind) []record.Bind { return append(l, record.Bind{VMKey: "0-later", Token: "x"}) }); !errors.Is(err, manifest.ErrNewer) {
		t.Errorf("recording a folder: %v", err)
	}
	if b, err := os.ReadFile(rootfile.VMManifestPath("0-later")); err != nil || string(b) != `{"version":9,"folders":{}}` {
		t.Errorf("%q %v", b, err)
	}
}
