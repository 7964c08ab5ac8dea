snapshot() (
  i=$(git rev-parse --git-path aivm-index) || exit 1
  trap 'rm -f -- "$i"' EXIT
  cp -- "$(git rev-parse --git-path index)" "$i" 2>/dev/null || :
  GIT_INDEX_FILE=$i; export GIT_INDEX_FILE
  g add -A >/dev/null 2>&1 && g write-tree
)
