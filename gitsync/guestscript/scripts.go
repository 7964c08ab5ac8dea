package guestscript

import (
	_ "embed"
	"strings"
)

// Mark is a file in the clone's .git that names the branch aivm checked out.
const Mark = "aivm-branch"

// whole puts the functions and names of aivm's into a script.
var whole = strings.NewReplacer("@GIT@", Git, "@IN_WAY@", inWay, "@COLLIDE@", collide, "@SNAPSHOT@", snapshot, "@MARK@", Mark, "@HOOKS@", hookDir)

// InEnglish makes programs say what is read here; a shell needs no "env" for it.
const InEnglish = "LC_ALL=C; export LC_ALL\n"

//go:embed git.sh
var gitText string

// Git is the guest's git without hooks and monitors of the clone.
var Git = "\n" + gitText

//go:embed inway.sh
var inWayText string

// inWay tells, of a file that is to be made and that git does not
// track, whether something in the work tree is in its way: a file of that name,
// a directory with untracked files, or, where its directories are to be, a file
// or a link. It leaves that in $at. No program is started for what is not there,
// and each directory is looked at once where names come sorted.
var inWay = "\n" + inWayText

//go:embed collide.sh
var collideText string

// collide lists, with NULs, what is in the work tree and would be
// written over by going from $1 to $2, though git calls it untracked or ignored.
// git itself writes over ignored files (git-read-tree(1), git-checkout(1)).
var collide = "\n" + strings.ReplaceAll(collideText, "@IN_WAY@", inWay)

//go:embed snapshot.sh
var snapshotText string

// snapshot writes the tree of all that is in the work tree and not
// ignored, through an index of its own.
var snapshot = "\n" + snapshotText

//go:embed init.sh
var initText string

// Init makes the clone. HEAD is set before anything is pushed: what is
// pushed to a branch that is checked out brings its files.
var Init = whole.Replace(initText)

// hookDir is where the clone keeps the hook below; its name changes with it.
const hookDir = "aivm-hooks-3"

//go:embed checkouthook.sh
var checkoutHookText string

// CheckoutHook takes the place of what git does by itself when a checked-out
// branch is pushed to (githooks(5), push-to-checkout): the same, except that an
// ignored file is not written over either. Three gits are in it, one less than
// git itself starts: in an emulated guest each takes as long as a tenth of a
// login. One says where HEAD is and what is not clean, one which files are new;
// their names, one a line and quoted if they hold what ends a line, go through
// the shell's own loop.
var CheckoutHook = whole.Replace(checkoutHookText)

//go:embed receive.sh
var receiveText string

// Receive puts the hook in place and becomes receive-pack. The settings
// stand on the command line: they hold whatever the clone's configuration says.
// The clone's own hooks are not run. The refs of repositories it borrows from
// are not asked for, which would be one git more even where it borrows from
// none: while a push is in quarantine git lists the clone itself so.
var Receive = InEnglish + whole.Replace(receiveText)

//go:embed dirty.sh
var dirtyText string

// Dirty first looks whether a push was cut after the files were written
// and before the branch was moved; then the branch is moved. Status 100: done.
// Else it looks whether the work tree is what aivm put there from uncommitted
// files of the host, untouched since: then it goes back to its commit, for
// nothing of it is only there. Status 101. Else it lists what is not clean, as
// git status does: 102.
var Dirty = whole.Replace(dirtyText)

//go:embed switch.sh
var switchText string

// Switch checks the branch $3 out, if the one aivm checked out last, $2,
// is still there and clean. Status 100: done; 101: not, files are in the way.
var Switch = whole.Replace(switchText)

//go:embed apply.sh
var applyText string

// Apply puts the files of commit $3 into the work tree, whose branch $2
// is at $4, if what is there is the commit, or what aivm put there before: then
// nothing is only there. HEAD and index stay at the commit, so the files are
// uncommitted there as they are here. Status 100: done; 101: something else is
// checked out; 102: files are changed there, and listed.
var Apply = whole.Replace(applyText)

// Submodule makes the repository a submodule has below the clone's .git,
// where git itself would put it, and says what it was given last.
//
//go:embed submodule.sh
var Submodule string

// CheckoutSubmodules checks the submodules out from what is there; git
// refuses where files of the guest would be lost. Status 100: done.
//
//go:embed checkoutsubmodules.sh
var CheckoutSubmodules string

// LFS reads names of large files and says which of them the clone lacks,
// and whether git-lfs is there.
//
//go:embed lfs.sh
var LFS string
