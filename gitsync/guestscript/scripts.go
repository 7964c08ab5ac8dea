package guestscript

// Mark is a file in the clone's .git that names the branch aivm checked out.
const Mark = "aivm-branch"

// InEnglish makes programs say what is read here; a shell needs no "env" for it.
const InEnglish = "LC_ALL=C; export LC_ALL\n"

// Git is the guest's git without hooks and monitors of the clone.
const Git = `
g() { git -c core.hooksPath=/dev/null -c core.fsmonitor=false "$@"; }
`

// inWay tells, of a file that is to be made and that git does not
// track, whether something in the work tree is in its way: a file of that name,
// a directory with untracked files, or, where its directories are to be, a file
// or a link. It leaves that in $at. No program is started for what is not there,
// and each directory is looked at once where names come sorted.
const inWay = `
in_way() {
  case $1 in */*) d=${1%/*} ;; *) d=. ;; esac
  if [ "$d" != "${dir-}" ]; then
    dir=$d gone= bad=
    [ -e "$d" ] || gone=1
    while [ "$d" != . ]; do
      if [ -L "$d" ] || { [ -e "$d" ] && [ ! -d "$d" ]; }; then
        gone=1
        [ -n "$(git --literal-pathspecs ls-files -- "$d" | head -c 1)" ] || bad=$d
      fi
      case $d in */*) d=${d%/*} ;; *) d=. ;; esac
    done
  fi
  at=$bad
  [ -z "$bad" ] || return 0
  [ -z "$gone" ] || return 1
  at=$1
  if [ -d "$1" ] && [ ! -L "$1" ]; then
    [ -n "$(git --literal-pathspecs ls-files --others -- "$1" | head -c 1)" ]
    return
  fi
  [ -e "$1" ] || [ -L "$1" ]
}
`

// collide lists, with NULs, what is in the work tree and would be
// written over by going from $1 to $2, though git calls it untracked or ignored.
// git itself writes over ignored files (git-read-tree(1), git-checkout(1)).
const collide = `
collide() {
  git diff-tree -r --no-renames --diff-filter=A --name-only -z "$1" "$2" | xargs -0 -r sh -c '` + inWay + `
for f; do
  if in_way "$f"; then printf "%s\0" "$at"; fi
done' sh | head -c 100000
}
`

// snapshot writes the tree of all that is in the work tree and not
// ignored, through an index of its own.
const snapshot = `
snapshot() (
  i=$(git rev-parse --git-path aivm-index) || exit 1
  trap 'rm -f -- "$i"' EXIT
  cp -- "$(git rev-parse --git-path index)" "$i" 2>/dev/null || :
  GIT_INDEX_FILE=$i; export GIT_INDEX_FILE
  g add -A >/dev/null 2>&1 && g write-tree
)
`

// Init makes the clone. HEAD is set before anything is pushed: what is
// pushed to a branch that is checked out brings its files.
const Init = `set -eu
d=$1 b=$2 format=$3
mkdir -p -- "$d" 2>/dev/null || { sudo -n mkdir -p -- "$d"; sudo -n chown -- "$(id -u):$(id -g)" "$d"; }
cd -- "$d"
case $format in sha1) git init -q ;; *) git init -q --object-format="$format" ;; esac
git symbolic-ref HEAD "refs/heads/$b"
git config receive.denyCurrentBranch updateInstead
printf '%s\n' "$b" >.git/` + Mark + "\n"

// hookDir is where the clone keeps the hook below; its name changes with it.
const hookDir = "aivm-hooks-3"

// CheckoutHook takes the place of what git does by itself when a checked-out
// branch is pushed to (githooks(5), push-to-checkout): the same, except that an
// ignored file is not written over either. Three gits are in it, one less than
// git itself starts: in an emulated guest each takes as long as a tenth of a
// login. One says where HEAD is and what is not clean, one which files are new;
// their names, one a line and quoted if they hold what ends a line, go through
// the shell's own loop.
const CheckoutHook = `#!/bin/sh
# aivm: update the files of this clone when the branch is pushed to, and lose none
unset GIT_QUARANTINE_PATH GIT_OPTIONAL_LOCKS
new=$1
` + Git + inWay + collide + `
no() { echo "Working directory has $1" >&2; exit 1; }
cd -- "${GIT_WORK_TREE:-..}" || exit 1
nl='
'
state=$(g status --porcelain=v2 --branch --no-ahead-behind --no-renames -uno --ignore-submodules=all) || exit 1
old=
IFS=$nl
set -f
for l in $state; do
  case $l in
  '# branch.oid (initial)') ;;
  '# branch.oid '*) old=${l#'# branch.oid '} ;;
  '#'*) ;;
  *) no "uncommitted changes" ;;
  esac
done
[ -n "$old" ] || old=$(git hash-object -t tree /dev/null)
added=$(g -c core.quotePath=false diff-tree -r --no-renames --diff-filter=A --name-only "$old" "$new") || exit 1
case $added in
*'"'*) [ -z "$(collide "$old" "$new" | tr '\0' x)" ] || no "files in the way" ;;
*)
  for f in $added; do
    if in_way "$f"; then no "files in the way"; fi
  done ;;
esac
unset IFS
exec git -c core.hooksPath=/dev/null read-tree -u -m "$old" "$new"
`

// Receive puts the hook in place and becomes receive-pack. The settings
// stand on the command line: they hold whatever the clone's configuration says.
// The clone's own hooks are not run. The refs of repositories it borrows from
// are not asked for, which would be one git more even where it borrows from
// none: while a push is in quarantine git lists the clone itself so.
const Receive = InEnglish + `h=$1/.git/` + hookDir + `
if [ ! -x "$h/push-to-checkout" ] && [ -d "$1/.git" ]; then
  rm -rf "$1"/.git/aivm-hooks-*
  mkdir -p "$h" && printf '%s' "$2" >"$h/.new" && chmod 755 "$h/.new" && mv -f "$h/.new" "$h/push-to-checkout" || exit 1
fi
exec git -c core.hooksPath="$h" -c receive.denyCurrentBranch=updateInstead -c receive.autogc=false -c receive.shallowUpdate=true \
  -c receive.denyNonFastForwards=true -c receive.denyDeletes=true -c core.alternateRefsCommand=true receive-pack "$1"
`

// Dirty first looks whether a push was cut after the files were written
// and before the branch was moved; then the branch is moved. Status 100: done.
// Else it looks whether the work tree is what aivm put there from uncommitted
// files of the host, untouched since: then it goes back to its commit, for
// nothing of it is only there. Status 101. Else it lists what is not clean, as
// git status does: 102.
const Dirty = `cd -- "$1" || exit 1
b=$2 new=$3 tree=$4
` + Git + collide + snapshot + `
old=$(g rev-parse -q --verify "refs/heads/$b^{commit}") || old=
if [ "$(g symbolic-ref -q HEAD)" = "refs/heads/$b" ] && g cat-file -e "$new^{commit}" 2>/dev/null; then
  g update-index -q --refresh >/dev/null 2>&1 || :
  if g diff-files --quiet && [ "$(g write-tree 2>/dev/null)" = "$tree" ] &&
     { [ -z "$old" ] || g merge-base --is-ancestor "$old" "$new"; }; then
    g update-ref -m 'aivm: finish a push that was cut' "refs/heads/$b" "$new" "$old" && exit 100
  fi
fi
w=$(g rev-parse -q --verify "refs/aivm/shown/$b^{commit}") || w=
i=$(g write-tree 2>/dev/null)
if [ -n "$w" ] && [ -n "$old" ] && [ "$(snapshot)" = "$(g rev-parse "$w^{tree}")" ] && [ "$(g symbolic-ref -q HEAD)" = "refs/heads/$b" ] &&
   { [ "$i" = "$(g rev-parse "$w^{tree}")" ] || [ "$i" = "$(g rev-parse "$old^{tree}")" ]; } && [ -z "$(collide "$w" "$old" | tr '\0' x)" ]; then
  g read-tree "$w" && g update-index -q --refresh
  g read-tree -m -u "$w" "$old" && g update-ref -d "refs/aivm/shown/$b" && exit 101
fi
{
  g status --porcelain=v1 -z
  if [ -n "$old" ] && g cat-file -e "$new^{commit}" 2>/dev/null; then collide "$old" "$new" | sed -z 's/^/!! /'; fi
} | head -c 100000
exit 102
`

// Switch checks the branch $3 out, if the one aivm checked out last, $2,
// is still there and clean. Status 100: done; 101: not, files are in the way.
const Switch = `cd -- "$1" || exit 1
` + Git + `
[ "$(g symbolic-ref -q HEAD)" = "refs/heads/$2" ] || exit 101
if g rev-parse -q --verify HEAD >/dev/null; then
  g update-index -q --refresh >/dev/null 2>&1 || :
  g diff-index --quiet HEAD -- || exit 101
  g checkout -q --no-overwrite-ignore "$3" -- >/dev/null 2>&1 || exit 101
else
  g read-tree -m -u "refs/heads/$3" >/dev/null 2>&1 || exit 101
  g symbolic-ref HEAD "refs/heads/$3"
fi
printf '%s\n' "$3" >.git/` + Mark + `
exit 100
`

// Apply puts the files of commit $3 into the work tree, whose branch $2
// is at $4, if what is there is the commit, or what aivm put there before: then
// nothing is only there. HEAD and index stay at the commit, so the files are
// uncommitted there as they are here. Status 100: done; 101: something else is
// checked out; 102: files are changed there, and listed.
const Apply = `cd -- "$1" || exit 1
b=$2 wip=$3 head=$4
` + Git + collide + snapshot + `
no() {
  { g status --porcelain=v1 -z; [ -z "${from-}" ] || collide "$from" "$wip" | sed -z 's/^/!! /'; } | head -c 100000
  exit 102
}
[ "$(g symbolic-ref -q HEAD)" = "refs/heads/$b" ] && [ "$(g rev-parse -q --verify HEAD)" = "$head" ] || exit 101
shown=$(g rev-parse -q --verify "refs/aivm/shown/$b^{commit}") || shown=$head
now=$(snapshot) && idx=$(g write-tree) || no
t() { g rev-parse "$1^{tree}"; }
case $idx in "$(t "$head")"|"$(t "$shown")"|"$(t "$wip")") ;; *) no ;; esac
case $now in
"$(t "$wip")") from=$wip ;;
"$(t "$shown")") from=$shown ;;
"$(t "$head")") from=$head ;;
*) no ;;
esac
[ -z "$(collide "$from" "$wip" | tr '\0' x)" ] || no
g read-tree "$from" || exit 1
g update-index -q --refresh >/dev/null 2>&1 || :
if ! g read-tree -m -u "$from" "$wip" >/dev/null 2>&1; then
  g read-tree "$head"
  no
fi
if [ "$wip" = "$head" ]; then g update-ref -d "refs/aivm/shown/$b"; else g update-ref "refs/aivm/shown/$b" "$wip"; fi
g read-tree "$head" && g update-index -q --refresh >/dev/null 2>&1
exit 100
`

// Submodule makes the repository a submodule has below the clone's .git,
// where git itself would put it, and says what it was given last.
const Submodule = `set -eu
m=$1
if [ ! -d "$m" ]; then
  case $2 in sha1) git init -q --bare "$m" ;; *) git init -q --bare --object-format="$2" "$m" ;; esac
  git --git-dir="$m" config core.bare false
fi
git --git-dir="$m" rev-parse -q --verify refs/aivm/submodule || :
`

// CheckoutSubmodules checks the submodules out from what is there; git
// refuses where files of the guest would be lost. Status 100: done.
const CheckoutSubmodules = `cd -- "$1" || exit 1
shift
git -c core.hooksPath=/dev/null submodule --quiet update --init --no-fetch -- "$@" 2>&1 || exit 101
exit 100
`

// LFS reads names of large files and says which of them the clone lacks,
// and whether git-lfs is there.
const LFS = `cd -- "$1/.git" || exit 1
! command -v git-lfs >/dev/null 2>&1 || echo git-lfs
while IFS= read -r o; do
  [ -n "$o" ] || continue
  a=${o%"${o#??}"} r=${o#??}
  [ -f "lfs/objects/$a/${r%"${r#??}"}/$o" ] || echo "$o"
done
`
