cd -- "$1/.git" || exit 1
! command -v git-lfs >/dev/null 2>&1 || echo git-lfs
while IFS= read -r o; do
  [ -n "$o" ] || continue
  a=${o%"${o#??}"} r=${o#??}
  [ -f "lfs/objects/$a/${r%"${r#??}"}/$o" ] || echo "$o"
done
