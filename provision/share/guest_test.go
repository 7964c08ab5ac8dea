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

// rightP is the output of a probe when the folder is mounted as it should be.
const rightP = `aivm-share 2
40 27 0:31 / /run/aivm/share rw - virtiofs aivm-root rw
41 27 0:31 /TOKEN /srv/my\040p rw - virtiofs aivm-root rw
aivm-share dirs
41ed 12 0 0 /srv
41ed 77 1000 1000 /srv/my p
aivm-share pass
/srv
/srv/my p
aivm-share same
aivm-share list
MARK
aivm-share end
`

func answerP() string {
	return strings.NewReplacer("TOKEN", tokP, "MARK", bootList([]Attachment{attP}, nil).mark).Replace(rightP)
}

func guestP(t *testing.T, edit ...string) GuestFacts {
	t.Helper()
	f, err := ParseGuest([]byte(strings.NewReplacer(edit...).Replace(answerP())), []Attachment{attP})
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
		"may not access":                 {"pass\n/srv\n", "pass\n"},
		"/srv/my p is missing":           {"41ed 77 1000 1000 /srv/my p\n", "", "/srv\n/srv/my p\n", "/srv\n"},
		"user may not access the path":   {"41ed 77 1000 1000 /srv/my p\n", "", "/srv\n/srv/my p\n", ""},
	} {
		if err := Verify(guestP(t, edit...), hostP(), attP); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", want, err)
		}
	}
	if err := Verify(GuestFacts{Mounts: guestP(t).Mounts}, hostP(), attP); err == nil || !strings.Contains(err.Error(), "was not probed") {
		t.Error(err)
	}
	// Covered by something mounted later.
	over := guestP(t, "aivm-share dirs", "42 41 0:9 / /srv/my\\040p rw - tmpfs none rw\naivm-share dirs")
	if err := Verify(over, hostP(), attP); err == nil || !strings.Contains(err.Error(), "tmpfs") {
		t.Errorf("covered: %v", err)
	}
	script, steps, err := PlanGuest(over, hostP(), []Attachment{attP})
	if err != nil || len(steps) != 1 || steps[0].ID != "guest.mount:"+tokP || !strings.HasSuffix(script, "}\nmain\n") {
		t.Errorf("%v %v", steps, err)
	}
	// All folders are mounted, but the list for the next boot differs.
	script, steps, err = PlanGuest(guestP(t, "# aivm ", "# aivm 0"), hostP(), []Attachment{attP})
	if err != nil || len(steps) != 1 || steps[0].ID != "guest.list" || strings.Contains(script, "\nmounts\n") {
		t.Errorf("%v %v", steps, err)
	}
	// No folder any more; then none before either.
	if script, _, _ := PlanGuest(guestP(t), hostP(), nil); !strings.Contains(script, bootListPath) {
		t.Error("the last folder stays on the list")
	}
	if script, _, _ := PlanGuest(GuestFacts{}, hostP(), nil); script != "" {
		t.Error("nothing to do, but a script was planned")
	}
}

// The daemons' limit on open files is read only if it is written into the guest, and the
// script has it.
func TestDaemonsInTheList(t *testing.T) {
	atts := []Attachment{attP}
	other := guestP(t, "# aivm ", "# aivm 0")
	for name, tc := range map[string]struct {
		guest GuestFacts
		atts  []Attachment
		read  bool
	}{
		"warm":            {guestP(t), atts, false},
		"another list":    {other, atts, true},
		"none any more":   {guestP(t), nil, true},
		"none and before": {GuestFacts{}, nil, false},
	} {
		h := hostP()
		h.OpenFiles = -1
		h.ObserveDaemons(tc.guest, tc.atts)
		if read := h.OpenFiles != -1; read != tc.read {
			t.Errorf("%s: read %v", name, read)
		}
	}
	h := hostP()
	for limit, want := range map[int]string{0: "600000", 1000: "600", 524288: "314568"} {
		h.OpenFiles = limit
		script, _, err := PlanGuest(other, h, atts)
		if err != nil || !strings.Contains(script, "= "+want+" ]") {
			t.Errorf("limit %d: %v, no %s", limit, err, want)
		}
	}
}

func TestParseGuestRefuses(t *testing.T) {
	right := answerP()
	for name, out := range map[string]string{
		"empty":        "",
		"no heading":   "hello\naivm-share end\n",
		"cut off":      strings.TrimSuffix(right, "aivm-share end\n"),
		"heading":      "aivm-share 2\n",
		"order":        strings.Replace(right, "aivm-share dirs\n", "", 1),
		"twice":        strings.Replace(right, "41ed 12 0 0 /srv\n", "41ed 12 0 0 /srv\n41ed 12 0 0 /srv\n", 1),
		"not asked":    strings.Replace(right, "0 0 /srv\n", "0 0 /etc\n", 1),
		"pass":         strings.Replace(right, "pass\n/srv\n", "pass\n/etc\n", 1),
		"relative":     strings.Replace(right, "0 0 /srv\n", "0 0 srv\n", 1),
		"number":       strings.Replace(right, "41ed 77", "41ed x", 1),
		"big number":   strings.Replace(right, "41ed 77", "41ed 99999999999999999999", 1),
		"mount":        strings.Replace(right, " - ", " ", 1),
		"blank line":   strings.Replace(right, "dirs\n", "dirs\n\n", 1),
		"token":        strings.Replace(right, "same\n", "same\n../x\n", 1),
		"two marks":    strings.Replace(right, "# aivm", "# aivm\n# aivm", 1),
		"long mark":    strings.Replace(right, "# aivm", strings.Repeat("x", 201), 1),
		"too long":     "aivm-share 2\n" + strings.Repeat("x", maxProbe),
		"after end":    right + "x\n",
		"other format": strings.Replace(right, "aivm-share 2", "aivm-share 1", 1),
	} {
		if f, err := ParseGuest([]byte(out), []Attachment{attP}); err == nil {
			t.Errorf("%s: accepted as %+v", name, f)
		}
	}
}

func FuzzParseGuest(f *testing.F) {
	f.Add([]byte(answerP()))
	f.Add([]byte("aivm-share 2\naivm-share end\n"))
	f.Fuzz(func(t *testing.T, out []byte) {
		facts, err := ParseGuest(out, []Attachment{attP})
		if err != nil {
			return
		}
		// Whatever the guest reports, neither Verify nor PlanGuest crashes, and the script
		// has none of it.
		_ = Verify(facts, hostP(), attP)
		script, _, err := PlanGuest(facts, hostP(), []Attachment{attP})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range facts.Mounts {
			if m.Source != FSTag && len(m.Source) > 6 && strings.Contains(script, m.Source) && !strings.Contains(guestHead+bootScript, m.Source) {
				t.Error("the guest's output got into the script")
			}
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
		"aivm-share-error file - /srv\n":                 `"/srv" in the VM is a file`,
		"aivm-share-error token x\x1b[2J y\n":            "does not appear",
		"aivm-share-error new \x1b[2J y\n":               `"new"`,
		"":                                               "status 9",
	} {
		err := GuestError(9, []byte(out), []byte("stderr \x1b[2J"), atts)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%q: %v", out, err)
		}
	}
}
