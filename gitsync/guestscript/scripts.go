package guestscript

import (
	_ "embed"
	"strings"
)

// Mark is a file in the clone's .git that names the branch aivm checked out.
const Mark = "aivm-branch"

// placeholders inserts the shared shell functions and names into a script.
var placeholders = strings.NewReplacer("@GIT@", Git, "@IN_WAY@", inWay, "@COLLIDE@", collide, "@SNAPSHOT@", snapshot, "@MARK@", Mark, "@HOOKS@", hookDir)

// InEnglish sets the C locale, so that the messages that are parsed are in English. A shell
// assignment needs no "env" process.
const InEnglish = "LC_ALL=C; export LC_ALL\n"

//go:embed git.sh
var gitText string

// Git defines g, the guest's git without the clone's hooks and file system monitor.
var Git = "\n" + gitText

//go:embed inway.sh
var inWayText string

// inWay checks whether something in the work tree blocks a file that is to be created and that git
// does not track: a file of that name, a directory with untracked files, or a file or link where
// one of its parent directories must be. It leaves the blocking path in $at. It starts no program
// for paths that do not exist, and checks each directory once if the names are sorted.
var inWay = "\n" + inWayText

//go:embed collide.sh
var collideText string

// collide lists, NUL-terminated, the untracked or ignored files of the work tree that a checkout
// from $1 to $2 would overwrite. git itself overwrites ignored files (git-read-tree(1),
// git-checkout(1)).
var collide = "\n" + strings.ReplaceAll(collideText, "@IN_WAY@", inWay)

//go:embed snapshot.sh
var snapshotText string

// snapshot writes a tree of everything in the work tree that is not ignored, using a temporary
// index.
var snapshot = "\n" + snapshotText

//go:embed init.sh
var initText string

// Init creates the clone. It sets HEAD before the first push, since a push to the checked-out
// branch also updates the files.
var Init = placeholders.Replace(initText)

// hookDir is the directory of the hook below in the clone's .git. Its name must change when the
// hook does.
const hookDir = "aivm-hooks-3"

//go:embed checkouthook.sh
var checkoutHookText string

// CheckoutHook replaces what git does when a checked-out branch is pushed to (githooks(5),
// push-to-checkout). It does the same, but does not overwrite ignored files either. It starts three
// git processes, one fewer than git itself does: in an emulated guest each takes a tenth of the
// time of a login. One reports HEAD and what is not clean, one which files are new; their names,
// one per line and quoted if they contain a line break, are checked by the shell's own loop.
var CheckoutHook = placeholders.Replace(checkoutHookText)

//go:embed receive.sh
var receiveText string

// Receive installs the hook and then executes receive-pack. The settings are on the command line so
// that they apply whatever the clone's configuration says. The clone's own hooks are not run.
// core.alternateRefsCommand is switched off: it would cost one more git process even for a clone
// without alternates, since git lists the clone itself as one while a push is in quarantine.
var Receive = InEnglish + placeholders.Replace(receiveText)

//go:embed dirty.sh
var dirtyText string

// Dirty first checks whether a push was interrupted after the files were written and before the
// branch was moved; if so, it moves the branch and exits with 100. Otherwise it checks whether the
// work tree still holds exactly what aivm wrote from uncommitted files of the host; if so, it
// resets the work tree to its commit, since nothing in it exists only there, and exits with 101.
// Otherwise it lists what is not clean, in the format of git status, and exits with 102.
var Dirty = placeholders.Replace(dirtyText)

//go:embed switch.sh
var switchText string

// Switch checks out the branch $3 if $2, the branch aivm checked out last, is still checked out and
// clean. Status 100: done; 101: not done, changed files are in the way.
var Switch = placeholders.Replace(switchText)

//go:embed apply.sh
var applyText string

// Apply writes the files of commit $3 into the work tree, whose branch $2 is at $4, if the work
// tree holds either that commit or what aivm wrote there before, so that nothing exists only there.
// HEAD and index stay at the commit, so the files are uncommitted in the guest as they are on the
// host. Status 100: done; 101: something else is checked out; 102: files are changed there, and
// listed.
var Apply = placeholders.Replace(applyText)

// Submodule creates a submodule's repository below the clone's .git, where git itself would put it,
// and prints the commit it received last.
//
//go:embed submodule.sh
var Submodule string

// CheckoutSubmodules checks the submodules out from the objects that are there; git refuses where
// files of the guest would be lost. Status 100: done.
//
//go:embed checkoutsubmodules.sh
var CheckoutSubmodules string

// LFS reads git-lfs object IDs and prints those the clone lacks, and whether git-lfs is installed.
//
//go:embed lfs.sh
var LFS string
