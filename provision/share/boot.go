package share

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"aivm.dev/aivm/internal/guestuser"
)

// What aivm leaves in a guest so that a reboot brings the folders back without
// aivm: a list, a script that mounts what is on it, and a systemd unit that
// runs the script before anybody can log in.
const (
	bootListPath = "/var/lib/aivm/folders"
	bootPath     = "/usr/local/sbin/aivm-folders"
	unitPath     = "/etc/systemd/system/aivm-folders.service"
	wantsPath    = "/etc/systemd/system/multi-user.target.wants/aivm-folders.service"
)

// places puts the paths that aivm has in a guest into a script.
var places = strings.NewReplacer("@UID@", guestuser.Text, "@LIST@", bootListPath, "@MOST@", maxInodesPath, "@EXPORT@", ExportMount, "@TAG@", FSTag, "@OWN@", OwnMounts)

// bootUnit is started after systemd-tmpfiles-setup (basic.target is after it):
// a folder below /tmp must not be there when /tmp is cleaned. pam_nologin inodeLimit
// everybody but root out until systemd-user-sessions has run.
const bootUnit = `# Written by aivm.
[Unit]
Description=Folders shared with this VM by aivm
ConditionPathExists=` + bootListPath + `
After=local-fs.target systemd-tmpfiles-setup.service
Before=systemd-user-sessions.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=` + bootPath + `
TimeoutStartSec=60

[Install]
WantedBy=multi-user.target
`

//go:embed boot.sh
var bootText string

// bootScript mounts what is on the list and really there: a token that nothing
// is bound to on the host is a directory without any rights. Two programs do
// the work, stat and mount, whatever the number of folders. Nothing in the
// guest is hidden by it but directories without files.
var bootScript = places.Replace(bootText)

// environment lets git in the guest find its repository across the mounts that
// an announced directory of a protected folder is (announced.go): it stops at
// the first file system boundary otherwise, and has no setting but this. sshd
// reads the file at every login (pam_env).
const environment = `# aivm: a shared folder may hold mounts
GIT_DISCOVERY_ACROSS_FILESYSTEM=1
`

// bootFile is the script as it is written: its second line tells versions apart
// without a program being started.
func bootFile() (version, text string) {
	sum := sha256.Sum256([]byte(bootUnit + bootScript + guardUnit + guardScript + environment))
	version = "# version " + hex.EncodeToString(sum[:8])
	return version, "#!/bin/sh\n" + version + "\n" + bootScript
}

// list is what the guest mounts at its next boot. The mark stands for all that
// was written, script and unit too, so that a newer aivm renews them.
type list struct {
	text, mark, version, script string
	maxInodes                   int // inodes the guest may keep
}

// bootList makes the list, parents before what lies in them.
func bootList(atts []Attachment) list {
	var b strings.Builder
	for _, a := range atts {
		kind := "folder"
		if slices.ContainsFunc(atts, func(o Attachment) bool { return below(a.GuestDst, o.GuestDst) }) {
			kind = "inside"
		}
		fmt.Fprintf(&b, "%s %s %s\n", kind, a.rel(), a.GuestDst)
	}
	version, script := bootFile()
	sum := sha256.Sum256([]byte(version + b.String()))
	mark := "# aivm " + hex.EncodeToString(sum[:16])
	return list{text: mark + "\n" + b.String(), mark: mark, version: version, script: script}
}

//go:embed install.sh
var installText string

// install writes the list and how much the guard lets the guest keep in its
// caches, which is no part of the digest: it is not asked for on every run.
// What reads it comes first, the list last: its mark says that the rest is
// there. What the list before had and this one has not is taken off first, if
// it is still mounted. A guest whose disk is full or read-only has its folders
// all the same, until it restarts.
func (l list) install() string {
	return strings.NewReplacer(
		"@LIST@", bootListPath, "@BOOT@", bootPath, "@UNIT@", unitPath, "@WANTS@", wantsPath, "@WANTS_DIR@", path.Dir(wantsPath), "@GUARD@", guardPath, "@GUARD_UNIT@", guardUnitPath, "@GUARD_WANTS@", guardWantsPath, "@MOST@", maxInodesPath,
		"@COUNT@", strconv.Itoa(l.maxInodes), "@TEXT@", quote(l.text), "@VERSION@", quote(l.version), "@BOOT_TEXT@", quote(l.script),
		"@UNIT_TEXT@", quote(bootUnit), "@GUARD_TEXT@", quote(guardScript), "@GUARD_UNIT_TEXT@", quote(guardUnit), "@ENVIRONMENT@", quote(environment),
	).Replace(strings.TrimSuffix(installText, "\n"))
}
