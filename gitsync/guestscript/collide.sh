collide() {
  git diff-tree -r --no-renames --diff-filter=A --name-only -z "$1" "$2" | xargs -0 -r sh -c '@IN_WAY@
for f; do
  if in_way "$f"; then printf "%s\0" "$at"; fi
done' sh | head -c 100000
}
