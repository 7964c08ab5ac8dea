cd -- "$1" || exit 1
@GIT@
[ "$(g symbolic-ref -q HEAD)" = "refs/heads/$2" ] || exit 101
if g rev-parse -q --verify HEAD >/dev/null; then
  g update-index -q --refresh >/dev/null 2>&1 || :
  g diff-index --quiet HEAD -- || exit 101
  g checkout -q --no-overwrite-ignore "$3" -- >/dev/null 2>&1 || exit 101
else
  g read-tree -m -u "refs/heads/$3" >/dev/null 2>&1 || exit 101
  g symbolic-ref HEAD "refs/heads/$3"
fi
printf '%s\n' "$3" >.git/@MARK@
exit 100
