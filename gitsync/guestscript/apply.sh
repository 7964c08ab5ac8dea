cd -- "$1" || exit 1
b=$2 wip=$3 head=$4
@GIT@@COLLIDE@@SNAPSHOT@
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
