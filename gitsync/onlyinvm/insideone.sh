@GIT@
n=0
for d; do
  k=$kind
  case $d in */.git) d=${d%/.git} ;; esac
  [ "$d" != . ] && [ "$d" != "$top" ] || continue
  n=$((n+1))
  if [ $n -gt 100 ]; then printf "more\0\0\0\0\0\0"; exit 0; fi
  if [ "$k" = repository ] && [ -f "$d/.git" ]; then
    c=$(g -C "$d" rev-parse --git-common-dir 2>/dev/null) || continue
    [ "$c" != "$top/.git" ] || continue # a work tree, named by git
    k=submodule
  fi
  h=$(g -C "$d" rev-parse -q --verify HEAD 2>/dev/null) || h=
  f=$({ g -C "$d" -c status.renames=false status --porcelain=v1 -z --untracked-files=normal 2>/dev/null || printf "\0"; } | head -c 400000 | tr -cd "\000" | wc -c)
  c=0 s=0 o=
  if [ "$k" = worktree ]; then
    g -C "$d" symbolic-ref -q HEAD >/dev/null || o=$h
  else
    c=$(g -C "$d" rev-list --count --max-count=10000 --exclude=refs/stash --all $h --not --remotes "--glob=refs/aivm/*" -- 2>/dev/null) || c=1
    s=$(g -C "$d" log -g --max-count=1000 --format=%H refs/stash -- 2>/dev/null | wc -l)
  fi
  printf "%s\0%s\0%s\0%s\0%s\0%s\0" "$k" "$d" "$f" "$c" "$s" "$o"
done
