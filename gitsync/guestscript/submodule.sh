set -eu
m=$1
if [ ! -d "$m" ]; then
  case $2 in sha1) git init -q --bare "$m" ;; *) git init -q --bare --object-format="$2" "$m" ;; esac
  git --git-dir="$m" config core.bare false
fi
git --git-dir="$m" rev-parse -q --verify refs/aivm/submodule || :
