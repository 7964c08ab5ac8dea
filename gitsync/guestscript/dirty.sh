cd -- "$1" || exit 1
b=$2 new=$3 tree=$4
@GIT@@COLLIDE@@SNAPSHOT@
old=$(g rev-parse -q --verify "refs/heads/$b^{commit}") || old=
if [ "$(g symbolic-ref -q HEAD)" = "refs/heads/$b" ] && g cat-file -e "$new^{commit}" 2>/dev/null; then
  g update-index -q --refresh >/dev/null 2>&1 || :
  if g diff-files --quiet && [ "$(g write-tree 2>/dev/null)" = "$tree" ] &&
     { [ -z "$old" ] || g merge-base --is-ancestor "$old" "$new"; }; then
    g update-ref -m 'aivm: finish an interrupted push' "refs/heads/$b" "$new" "$old" && exit 100
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
