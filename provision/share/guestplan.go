package share

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"sort"
	"strings"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root/mountinfo"
	"aivm.dev/aivm/internal/ui"
)

// guestHead defines what the guest script's lines call. It is run by guest
// root with sh -s; nothing in it reads stdin. Each function ends the script
// with one line "aivm-share-error REASON TOKEN PATH" when it must not go on.
const guestHead = `set -u
LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL PATH
umask 022
dev=` + ExportMount + ` tag=` + FSTag + `
die() { echo "aivm-share-error $1 $2 $3"; exit 9; }
top() { # POINT: the topmost mount there, into t_type t_src t_root
	t_type=
	while read -r t_i t_p t_d t_r t_point t_rest; do
		[ "$t_point" = "$1" ] || continue
		t_root=$t_r t_rest=${t_rest#* - }
		t_type=${t_rest%% *} t_rest=${t_rest#* }
		t_src=${t_rest%% *}
	done </proc/self/mountinfo
	[ -n "$t_type" ]
}
ours() { [ "$t_type $t_src" = "virtiofs $tag" ]; }
device() {
	if top "$dev"; then
		ours || die foreign - "$dev"
		return 0
	fi
	mkdir -p -- "$dev" && chmod 0700 -- "$dev" || die make - "$dev"
	mount -t virtiofs -- "$tag" "$dev" || die device - "$dev"
}
drop() { # TOKEN DIR POINT: take our mounts off DIR
	n=0
	while top "$3" && ours; do
		n=$((n + 1))
		[ "$n" -lt 32 ] && umount -- "$2" || die busy "$1" "$2"
	done
}
step() { # TOKEN KIND DIR PARENT: DIR is there and the guest's user can walk through it
	if [ -L "$3" ]; then die link "$1" "$3"; fi
	if [ ! -e "$3" ]; then
		[ "$2" = own ] || die inside "$1" "$3"
		mkdir -- "$3" && chmod 0755 -- "$3" && chown --reference="$4" -- "$3" || die make "$1" "$3"
	elif [ ! -d "$3" ]; then
		die file "$1" "$3"
	fi
	[ "$2" = own ] || return 0
	s_dir=$3
	s=$(stat -c '%u %g %f' -- "$s_dir") || die make "$1" "$s_dir"
	s_uid=${s%% *} s=${s#* }
	s_gid=${s%% *} s_mode=$((0x${s#* }))
	if [ "$s_uid" = 1000 ]; then
		[ $((s_mode & 64)) -ne 0 ] || chmod u+x -- "$s_dir" || die make "$1" "$s_dir"
	elif [ "$s_gid" = 1000 ]; then
		[ $((s_mode & 8)) -ne 0 ] || chmod g+x -- "$s_dir" || die make "$1" "$s_dir"
	else
		[ $((s_mode & 1)) -ne 0 ] || chmod go+x -- "$s_dir" || die make "$1" "$s_dir"
	fi
}
inode() { stat -c %i -- "$1" 2>/dev/null; }
onto() { # TOKEN DIR POINT INODE: mount the token on DIR
	# The guest may remember for a second that the token was not there, or
	# what it was before.
	n=0
	while [ "$(inode "$dev/$1")" != "$4" ]; do
		n=$((n + 1))
		[ "$n" -lt 50 ] || die token "$1" "$dev/$1"
		sleep 0.1
	done
	if top "$3"; then
		ours || die foreign "$1" "$2"
		if [ "$t_root" = "/$1" ] && [ "$(inode "$2")" = "$4" ]; then return 0; fi
		drop "$1" "$2" "$3"
		if top "$3"; then die foreign "$1" "$2"; fi
	fi
	# Directories alone hold nothing that could be missed; the folder itself,
	# seen through a shared parent, is what is going to be mounted.
	if [ "$(inode "$2")" != "$4" ] &&
		[ -n "$(find "$2" -xdev -mindepth 1 ! -type d -print 2>/dev/null | head -n 1)" ]; then
		die full "$1" "$2"
	fi
	mount --bind -- "$dev/$1" "$2" || die mount "$1" "$2"
}
`

// PlanGuest returns one shell script, to be run by guest root, that mounts the
// device and every folder of atts that is not yet right, and the same as steps
// for people (their Do is nil: the script does them all). Both are empty when
// nothing is to be done. Running it again is harmless.
func PlanGuest(f GuestFacts, host HostFacts, atts []Attachment) (script string, steps []plan.Action, err error) {
	if err := check(atts); err != nil {
		return "", nil, err
	}
	for _, a := range atts {
		if _, ok := host.Folders[a.HostPath]; !ok {
			return "", nil, fmt.Errorf("share: folder %s was not observed", a.HostPath)
		}
	}
	// A folder that cannot be shared was named by PlanHost; the others go on.
	atts = slices.DeleteFunc(slices.Clone(atts), func(a Attachment) bool { return host.Folders[a.HostPath].Err != nil })
	// Parents before children: the other way round the parent would hide them.
	sort.SliceStable(atts, func(i, j int) bool { return len(ways(atts[i].GuestDst)) < len(ways(atts[j].GuestDst)) })
	var todo []Attachment
	for _, a := range atts {
		moved := slices.ContainsFunc(todo, func(p Attachment) bool { return below(a.GuestDst, p.GuestDst) })
		if moved || Verify(f, host, a) != nil {
			todo = append(todo, a)
		}
	}
	if len(todo) == 0 {
		return "", nil, nil
	}
	var b strings.Builder
	b.WriteString(guestHead)
	// One function, called on the last line: a script cut off on its way
	// does nothing at all.
	b.WriteString("main() {\nbad=0\ndevice\n")
	for _, a := range slices.Backward(todo) {
		if slices.ContainsFunc(todo, func(p Attachment) bool { return below(a.GuestDst, p.GuestDst) }) {
			fmt.Fprintf(&b, "drop %s %s %s\n", Token(a.HostPath), quote(a.GuestDst), quote(mountinfo.Escape(a.GuestDst)))
		}
	}
	for _, a := range todo {
		token := Token(a.HostPath)
		b.WriteString("(\n") // one folder that cannot be mounted does not keep the others away
		for _, d := range ways(a.GuestDst) {
			kind := "own"
			// Below another folder's guest path the directories are the
			// host's: never made, never changed.
			if slices.ContainsFunc(atts, func(p Attachment) bool { return below(d, p.GuestDst) }) {
				kind = "theirs"
			}
			if d == a.GuestDst || slices.ContainsFunc(atts, func(p Attachment) bool { return d == p.GuestDst }) {
				// A mount point: what is seen there may be a host folder.
				fmt.Fprintf(&b, "{ [ -d %s ] && [ ! -L %s ]; } || step %s %s %s %s\n", quote(d), quote(d), token, kind, quote(d), quote(path.Dir(d)))
				continue
			}
			fmt.Fprintf(&b, "step %s %s %s %s\n", token, kind, quote(d), quote(path.Dir(d)))
		}
		fmt.Fprintf(&b, "onto %s %s %s %d\n) || bad=9\n", token, quote(a.GuestDst), quote(mountinfo.Escape(a.GuestDst)), host.Folders[a.HostPath].Ino)
		steps = append(steps, plan.Action{
			ID:      "guest.mount:" + token,
			Why:     fmt.Sprintf("mount folder %s at %s in VM %s", a.HostPath, a.GuestDst, a.VM),
			Shows:   []string{"mount --bind " + ExportMount + "/" + token + " " + quote(a.GuestDst)},
			Consent: plan.None,
			Timing:  "share",
		})
	}
	b.WriteString("return $bad\n}\nmain\n")
	return b.String(), steps, nil
}

// GuestError explains a guest script that did not end with status 0: one joined
// FolderError for each folder it names. out is what it printed on stdout, stderr
// what it printed there.
func GuestError(exit int, out, stderr []byte, atts []Attachment) error {
	if exit == 0 {
		return nil
	}
	said := strings.TrimSpace(string(stderr[max(0, len(stderr)-500):]))
	var errs []error
	for line := range strings.SplitSeq(string(out[:min(len(out), maxProbe)]), "\n") {
		rest, ok := strings.CutPrefix(line, "aivm-share-error ")
		if !ok || len(errs) > len(atts) {
			continue
		}
		reason, rest, _ := strings.Cut(rest, " ")
		token, where, _ := strings.Cut(rest, " ")
		var of Attachment
		for _, a := range atts {
			if Token(a.HostPath) == token {
				of = a
			}
		}
		err := explain(reason, where, said, of)
		if by := held(out, token); reason == "busy" && len(by) > 0 {
			err = ui.Refused("%q in the VM is in use there by %s", where, strings.Join(by, ", "))
		}
		if of.HostPath != "" {
			err = &FolderError{of.HostPath, err}
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return ui.Failed("mounting the folders in the VM ended with status %d: %q", exit, said)
	}
	return errors.Join(errs...)
}

func explain(reason, where, said string, a Attachment) error {
	const elsewhere = "attach the folder at another place: --guest-dst PATH"
	restart := "restart the VM: aivm vm restart " + quote(a.VM)
	switch reason {
	case "foreign":
		return ui.Refused("something else is mounted on %q in the VM", where).Hint(elsewhere)
	case "link":
		return ui.Refused("%q in the VM is a symbolic link", where).Hint(elsewhere)
	case "file":
		return ui.Refused("%q in the VM is a file", where).Hint(elsewhere)
	case "full":
		return ui.Refused("%q in the VM is not empty, and folder %s would hide what is there", where, a.HostPath).Hint(elsewhere)
	case "inside":
		return ui.Refused("%q would have to be made inside another shared folder, and attaching changes none", where).Hint(elsewhere)
	case "busy":
		return ui.Failed("%q in the VM is in use and cannot be mounted anew: %q", where, said).
			Hint("close what works there, or " + restart)
	case "device":
		return ui.Failed("the VM cannot mount its folder device %s: %q", FSTag, said)
	case "token":
		return ui.Failed("folder %s does not appear in the VM", a.HostPath).Hint(restart)
	}
	return ui.Failed("mounting folder %s in the VM failed (%q at %q): %q", a.HostPath, reason, where, said)
}
