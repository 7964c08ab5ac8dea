#!/bin/sh
# aivm: update the files of this clone when the branch is pushed to, and lose none
unset GIT_QUARANTINE_PATH GIT_OPTIONAL_LOCKS
new=$1
@GIT@@IN_WAY@@COLLIDE@
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
