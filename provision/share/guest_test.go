package share

import (
	"strings"
	"testing"

	"aivm.dev/aivm/internal/root/mountinfo"
)

var (
	attP = Attachment{HostPath: "/srv/my p", VM: "a", Mode: SharedRoot, Access: "rw", GuestDst: "/srv/my p"}
	tokP = Token(attP.HostPath)
)

func hostP() HostFacts {
	return HostFacts{
		Folders: map[string]Folder{attP.HostPath: {Ino: 77, Readable: true, Writable: true}},
		Tokens:  map[string][]mountinfo.Mount{tokP: {{Options: []string{"rw", "nosuid", "nodev", "idmapped"}}}},
	}
}

// rightP is a probe's answer when all is well.
const rightP = `aivm-share 1
mount 40 27 0:31 / /run/aivm/share rw - virtiofs aivm-root rw
mount 41 27 0:31 /TOKEN /srv/my\040p rw - virtiofs aivm-root rw
dir TOKEN 0 41ed 12 0 0 pass
dir TOKEN 1 41ed 77 1000 1000 pass
aivm-share end
`

func guestP(t *testing.T, edit ...string) GuestFacts {
	t.Helper()
	f, err := ParseGuest([]byte(strings.NewReplacer(edit...).Replace(strings.ReplaceAll(rightP, "TOKEN", tokP))))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestVerifyNamesWhatDiffers(t *testing.T) {
	if err := Verify(guestP(t), hostP(), attP); err != nil {
		t.Fatal(err)
	}
	if script, steps, err := PlanGuest(guestP(t), hostP(), []Attachment{attP}); err != nil || script != "" || len(steps) != 0 {
		t.Errorf("warm, but planned %v %v", steps, err)
	}
	for want, edit := range map[string][]string{
		"nothing is mounted":             {`/srv/my\040p`, "/srv/q"},
		`type "tmpfs"`:                   {"p rw - virtiofs", "p rw - tmpfs"},
		`device "evil"`:                  {"p rw - virtiofs aivm-root", "p rw - virtiofs evil"},
		`shows "/other-`:                 {"/" + tokP + " /srv", "/other-x /srv"},
		`shows "/` + tokP + `//deleted"`: {"/" + tokP + " /srv", "/" + tokP + "//deleted /srv"},
		"inode is 78":                    {"41ed 77", "41ed 78"},
		"owner changed":                  {"77 1000 1000", "77 65534 1000"},
		"cannot walk":                    {"12 0 0 pass", "12 0 0 stop"},
		"/srv/my p is missing":           {"1 41ed 77 1000 1000 pass", "1 missing"},
		"user cannot walk there":         {"1 41ed 77 1000 1000 pass", "1 denied"},
		"was not looked at":              {"dir " + tokP + " 1 41ed 77 1000 1000 pass\n", ""},
	} {
		if err := Verify(guestP(t, edit...), hostP(), attP); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", want, err)
		}
	}
	// Covered by something mounted later.
	over := guestP(t, "dir "+tokP+" 0", "mount 42 41 0:9 / /srv/my\\040p rw - tmpfs none rw\ndir "+tokP+" 0")
	if err := Verify(over, hostP(), attP); err == nil || !strings.Contains(err.Error(), "tmpfs") {
		t.Errorf("covered: %v", err)
	}
	script, steps, err := PlanGuest(over, hostP(), []Attachment{attP})
	if err != nil || len(steps) != 1 || steps[0].ID != "guest.mount:"+tokP || !strings.HasSuffix(script, "}\nmain\n") {
		t.Errorf("%v %v", steps, err)
	}
}

func TestParseGuestRefuses(t *testing.T) {
	right := strings.ReplaceAll(rightP, "TOKEN", tokP)
	for name, out := range map[string]string{
		"empty":       "",
		"no heading":  "hello\naivm-share end\n",
		"cut off":     strings.TrimSuffix(right, "aivm-share end\n"),
		"heading":     "aivm-share 1\n",
		"kind":        strings.Replace(right, "dir ", "rm ", 1),
		"token":       strings.Replace(right, tokP+" 0", "../x 0", 1),
		"order":       strings.Replace(right, tokP+" 0", tokP+" 1", 1),
		"negative":    strings.Replace(right, tokP+" 0", tokP+" -1", 1),
		"number":      strings.Replace(right, "41ed 77", "41ed x", 1),
		"big number":  strings.Replace(right, "41ed 77", "41ed 99999999999999999999", 1),
		"walk":        strings.Replace(right, "pass", "maybe", 1),
		"mount":       strings.Replace(right, " - ", " ", 1),
		"blank line":  strings.Replace(right, "dir", "\ndir", 1),
		"too long":    "aivm-share 1\n" + strings.Repeat("x", maxProbe),
		"more fields": strings.Replace(right, "1000 1000 pass", "1000 1000 pass pass", 1),
	} {
		if f, err := ParseGuest([]byte(out)); err == nil {
			t.Errorf("%s: taken as %+v", name, f)
		}
	}
}

func FuzzParseGuest(f *testing.F) {
	f.Add([]byte(strings.ReplaceAll(rightP, "TOKEN", tokP)))
	f.Add([]byte("aivm-share 1\naivm-share end\n"))
	f.Fuzz(func(t *testing.T, out []byte) {
		facts, err := ParseGuest(out)
		if err != nil {
			return
		}
		for token, way := range facts.Ways {
			if len(token) > 64 || len(way) > maxDepth {
				t.Errorf("%q with %d directories", token, len(way))
			}
		}
		// Whatever it says, plan and verdict come without a crash, and the
		// script holds nothing of it.
		_ = Verify(facts, hostP(), attP)
		script, _, err := PlanGuest(facts, hostP(), []Attachment{attP})
		if err != nil {
			t.Fatal(err)
		}
		if fresh, _, _ := PlanGuest(GuestFacts{}, hostP(), []Attachment{attP}); script != "" && script != fresh {
			t.Error("the guest's words got into the script")
		}
	})
}

func TestGuestError(t *testing.T) {
	atts := []Attachment{attP}
	if GuestError(0, nil, nil, atts) != nil {
		t.Error("status 0 is no error")
	}
	for out, want := range map[string]string{
		"aivm-share-error full " + tokP + " /srv/my p\n": `"/srv/my p" in the VM is not empty, and folder /srv/my p`,
		"aivm-share-error link " + tokP + " /srv\n":      "symbolic link",
		"aivm-share-error device - /run/aivm/share\n":    "device aivm-root",
		"aivm-share-error token x\x1b[2J y\n":            "does not appear",
		"aivm-share-error new \x1b[2J y\n":               `"new"`,
		"":                                               "status 9",
	} {
		err := GuestError(9, []byte(out), []byte("said \x1b[2J"), atts)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%q: %v", out, err)
		}
	}
}
