[ -e .git ] || exit 0
s=.git
[ ! -f .git ] || s=$(g rev-parse --git-common-dir) || exit 1
[ -d "$s/lfs/objects" ] || exit 0
{ find "$s/lfs/objects" -type f -printf '%f\n' 2>/dev/null || echo closed; } | head -c 1000000
