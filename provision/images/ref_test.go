package images

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/provision/domain"
	"aivm.dev/aivm/provision/image"
	"aivm.dev/aivm/provision/loop/looptest"
	"aivm.dev/aivm/provision/target"
)

// ImageRef combines --image, this version's config keys and those of aivm 0.3.
func TestImageRef(t *testing.T) {
	sum, sum2 := strings.Repeat("a", 64), strings.Repeat("b", 128)
	old := "https://cloud-images.ubuntu.com/noble/20260225/noble-server-cloudimg-amd64.img"
	for _, tt := range []struct {
		name, flag, want string
		image            config.Image
		note             bool
	}{
		{name: "nothing given", want: "auto"},
		{name: "a name", image: config.Image{Name: "ubuntu-22.04"}, want: "ubuntu-22.04"},
		{name: "a name and a digest", image: config.Image{Name: "ubuntu-22.04", SHA256: strings.ToUpper(sum)}, want: "ubuntu-22.04#sha256=" + sum},
		{name: "auto and a digest", image: config.Image{Name: "auto", SHA512: sum2}, want: "auto#sha512=" + sum2},
		{name: "an address and a digest", image: config.Image{Name: "https://h.example/x", SHA256: sum}, want: "https://h.example/x#sha256=" + sum},
		{name: "the flag replaces name and digest", flag: "debian-12", image: config.Image{Name: "ubuntu-22.04", SHA256: sum, UbuntuImgURL: old}, want: "debian-12"},
		{name: "the digest in the flag", flag: "https://h.example/x#sha512=" + sum2, image: config.Image{SHA256: sum}, want: "https://h.example/x#sha512=" + sum2},
		{name: "0.3's pinned daily build", image: config.Image{Name: "auto", UbuntuImgURL: old, CacheName: "noble-base.img"}, want: "ubuntu-24.04", note: true},
		{name: "0.3's, minimal", image: config.Image{UbuntuImgURL: "https://cloud-images.ubuntu.com/minimal/releases/noble/release-20250101/x.img"}, want: "ubuntu-24.04-minimal", note: true},
		{name: "0.3's with its digest", image: config.Image{UbuntuImgURL: old, SHA256: sum}, want: old + "#sha256=" + sum},
		{name: "0.3's with another server", image: config.Image{UbuntuImgURL: "https://h.example/noble/x.img"}, want: "https://h.example/noble/x.img"},
		{name: "0.3's file", image: config.Image{UbuntuImgURL: "file:///srv/x.img"}, want: "/srv/x.img"},
		{name: "the name overrides 0.3's key", image: config.Image{Name: "debian-13", UbuntuImgURL: old}, want: "debian-13"},
	} {
		w := &target.Target{Store: &config.Store{Config: config.DefaultConfig()}}
		w.Record.Image = tt.image
		w, err := w.WithImage(tt.flag)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		ref, note, err := w.ImageRef()
		if err != nil || ref.Full() != tt.want || (note != "") != tt.note {
			t.Errorf("%s: %q, %q, %v", tt.name, ref.Full(), note, err)
		}
	}
	w := &target.Target{}
	w.Record.Image.UbuntuImgURL = "http://cloud-images.ubuntu.com/x.img"
	if _, _, err := w.ImageRef(); err == nil || !strings.Contains(err.Error(), "ubuntu_img_url") {
		t.Error(err)
	}
	if _, err := w.WithImage("No Such"); err == nil {
		t.Error("a bad name was accepted")
	}
}

// "auto" means the default if the cache has it or its server answers, else the build from packages;
// the server is asked once per run.
func TestAuto(t *testing.T) {
	auto := image.Ref{Kind: image.KindAuto}
	yes, no := true, false
	for _, tt := range []struct {
		answers *bool
		cached  bool
		want    string
		note    bool
	}{
		{&yes, false, "ubuntu-24.04", false},
		{&no, false, "packages:debian-12", true},
		{&no, true, "ubuntu-24.04", false},
	} {
		e := looptest.New(t)
		e.ServerAnswers = tt.answers
		if tt.cached {
			addImage(t, e, image.Ref{Kind: image.KindCatalogue, Name: image.Default}, 1<<30)
		}
		ref, note, err := For(e.Loop).resolveImage(context.Background(), &target.Target{}, auto)
		if err != nil || ref.String() != tt.want || (note != "") != tt.note {
			t.Errorf("%+v: %v %q %v", tt, ref, note, err)
		}
	}
	pinned := auto
	pinned.SHA256 = strings.Repeat("0", 64)
	if ref, _, err := For(looptest.New(t).Loop).resolveImage(context.Background(), &target.Target{}, pinned); err != nil || ref.Full() != "ubuntu-24.04#sha256="+pinned.SHA256 {
		t.Error(ref, err)
	}
}

// addImage adds a raw image with a disk of that size to the cache.
func addImage(t *testing.T, w *looptest.World, ref image.Ref, size int64) image.Entry {
	t.Helper()
	p := filepath.Join(w.Dir, "disk")
	head := make([]byte, 512)
	head[510], head[511] = 0x55, 0xaa
	if err := os.WriteFile(p, head, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(p, size); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(p)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ent, err := w.Cache.Add(context.Background(), f, ref, "a test's", nil)
	if err != nil {
		t.Fatal(err)
	}
	return ent
}

// A disk is never smaller than the image's, whose end would be cut off.
func TestDiskHasRoomForTheImage(t *testing.T) {
	base := func() (domain.Base, error) { return domain.Base{Disk: 10<<30 + 1}, nil }
	w := &target.Target{}
	if gb, err := RoomFor(w, base, 8); gb != 11 || err != nil {
		t.Error(gb, err)
	}
	w.Size.DiskGB = 8
	if _, err := RoomFor(w, base, 8); err == nil {
		t.Error("a requested size that is too small was accepted")
	}
	if gb, err := RoomFor(w, base, 12); gb != 12 || err != nil {
		t.Error(gb, err)
	}
}

// The plan of a download names its size and how it is verified. A cached image is not planned
// again, unless the config has redownload.
func TestPlanDownload(t *testing.T) {
	e := looptest.New(t)
	plan := func(im config.Image) string {
		t.Helper()
		w := &target.Target{Store: &config.Store{Config: config.DefaultConfig()}}
		w.Record.Image = im
		p, _, err := For(e.Loop).Plan(w, For(e.Loop).Observe(t.Context(), w))
		if err != nil {
			return "error: " + err.Error()
		}
		var b bytes.Buffer
		for _, a := range p.Actions {
			b.WriteString(a.ID + " " + a.Why + " " + strings.Join(a.Shows, " "))
		}
		return b.String()
	}
	got := plan(config.Image{Name: "ubuntu-24.04", Mirror: []string{"https://mirror.example/u/"}})
	for _, w := range []string{"image.fetch:ubuntu-24.04", "600 MB", "Ubuntu's signature", "GET https://mirror.example/u/releases/noble/release/"} {
		if !strings.Contains(got, w) {
			t.Errorf("%q does not contain %q", got, w)
		}
	}
	e.Fetcher = nil
	if got := plan(config.Image{Name: "debian-12"}); !strings.Contains(got, "not signed") {
		t.Error(got)
	}
	if got := plan(config.Image{Name: "https://h.example/x.img"}); !strings.Contains(got, "error: the image") {
		t.Error(got)
	}
	if got := plan(config.Image{Name: "no-such"}); !strings.Contains(got, `unknown image "no-such"`) {
		t.Error(got)
	}
	addImage(t, e, image.Ref{Kind: image.KindCatalogue, Name: "debian-12"}, 1<<30)
	if got := plan(config.Image{Name: "debian-12"}); got != "" {
		t.Error(got)
	}
	if got := plan(config.Image{Name: "debian-12", Redownload: true}); !strings.Contains(got, "look for a newer debian-12") {
		t.Error(got)
	}
}
