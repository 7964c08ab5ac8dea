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

// aivm installs these files in a guest so that the folders are mounted again after a
// reboot without aivm: a list, a script that mounts what is on it, and a systemd unit
// that runs the script before anybody can log in.
const (
	bootListPath = "/var/lib/aivm/folders"
	bootPath     = "/usr/local/sbin/aivm-folders"
	unitPath     = "/etc/systemd/system/aivm-folders.service"
	wantsPath    = "/etc/systemd/system/multi-user.target.wants/aivm-folders.service"
)

// places replaces the placeholders in a script by the paths aivm uses in a guest.
var places = strings.NewReplacer("@UID@", guestuser.Text, "@LIST@", bootListPath, "@MOST@", maxInodesPath, "@EXPORT@", ExportMount, "@TAG@", FSTag, "@OWN@", OwnMounts)

// bootUnit is started after systemd-tmpfiles-setup, so that a folder below /tmp is not
// mounted when /tmp is cleaned. It runs before systemd-user-sessions, until which
// pam_nologin lets only root log in.
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

// bootScript mounts the folders on the list that the host has mounted; a token without
// a mount on the host is a directory of mode 0. It starts one stat and one mount,
// whatever the number of folders. Its mounts hide only directories without files.
var bootScript = places.Replace(bootText)

// environment lets git in the guest find its repository across file system
// boundaries. In a protected folder each announced directory is a mount
// (announced_submounts.go), and git stops searching at the first one; this variable
// is its only setting for that. sshd reads the file at every login (pam_env).
const environment = `# aivm: a shared folder may hold mounts
GIT_DISCOVERY_ACROSS_FILESYSTEM=1
`

// bootFile returns the boot script as it is written. Its second line is the version,
// which the shell can read without starting a program.
func bootFile() (version, text string) {
	sum := sha256.Sum256([]byte(bootUnit + bootScript + guardUnit + guardScript + environment))
	version = "# version " + hex.EncodeToString(sum[:8])
	return version, "#!/bin/sh\n" + version + "\n" + bootScript
}

// list is what the guest mounts at its next boot. mark is a checksum of everything
// aivm writes, including script and units, so that a newer aivm replaces them.
type list struct {
	text, mark, version, script string
	groups                      []string // "group GID NAME", of which the guest's user is a member
	maxInodes                   int      // how many inodes the guest may cache
}

// bootList builds the list: groups, then folders, parents before the folders in them.
func bootList(atts []Attachment, groups []string) list {
	var b strings.Builder
	for _, g := range groups {
		b.WriteString(g + "\n")
	}
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
	return list{text: mark + "\n" + b.String(), mark: mark, version: version, script: script, groups: groups}
}

//go:embed install.sh
var installText string

//go:embed join_group.sh
var joinGroupText string

// joinText defines the shell function that makes the guest's user a member of a group.
var joinText = places.Replace(joinGroupText)

// install returns the shell lines that write the list, script and units. The number of
// inodes the guest may cache is not part of the mark, since it is not read on every
// run. The list is written last: its mark shows that everything else is in place.
// Folders of the previous list that are not on this one are unmounted first. If the
// guest's disk is full or read-only, its folders work until it reboots.
func (l list) install() string {
	var groups strings.Builder
	if len(l.groups) > 0 {
		groups.WriteString(joinText)
	}
	for _, g := range l.groups {
		groups.WriteString("join_" + g + "\n")
	}
	return strings.NewReplacer(
		"@GROUPS@\n", groups.String(), "@LIST@", bootListPath, "@BOOT@", bootPath, "@UNIT@", unitPath, "@WANTS@", wantsPath, "@WANTS_DIR@", path.Dir(wantsPath), "@GUARD@", guardPath, "@GUARD_UNIT@", guardUnitPath, "@GUARD_WANTS@", guardWantsPath, "@MOST@", maxInodesPath,
		"@COUNT@", strconv.Itoa(l.maxInodes), "@TEXT@", quote(l.text), "@VERSION@", quote(l.version), "@BOOT_TEXT@", quote(l.script),
		"@UNIT_TEXT@", quote(bootUnit), "@GUARD_TEXT@", quote(guardScript), "@GUARD_UNIT_TEXT@", quote(guardUnit), "@ENVIRONMENT@", quote(environment),
	).Replace(strings.TrimSuffix(installText, "\n"))
}
