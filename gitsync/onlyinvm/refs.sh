[ -e .git ] || exit 0
h=
[ ! -f .git/HEAD ] || IFS= read -r h <.git/HEAD || :
case $h in ''|*.invalid) h=$(g rev-parse -q --verify HEAD) && ! g symbolic-ref -q HEAD >/dev/null || h= ;; esac
case $h in 'ref: '*) ;; ?*) echo "head $h HEAD" ;; esac
g for-each-ref --format='%(objectname) %(refname)' | {
  n=0
  while read -r o r; do
    case $r in
    refs/heads/*|refs/tags/*|refs/remotes/*|refs/aivm/*|refs/bisect/*|refs/stash) ;;
    *) n=$((n+1)); [ $n -le 1001 ] || break; echo "ref $o $r" ;;
    esac
  done
}
s=
if [ -e .git/logs/refs/stash ] || [ -e .git/reftable ] || [ -f .git ]; then
  s=$(g log -g --max-count=1001 --format=%H refs/stash -- 2>/dev/null)
  [ -z "$s" ] || g log -g --max-count=1001 --format='stash %H %gs' refs/stash --
fi
n=$(g rev-list --count --max-count=10000 --reflog --not --all HEAD $s -- 2>/dev/null) || n=0
echo "unreachable $n -"
