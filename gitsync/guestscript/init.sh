set -eu
d=$1 b=$2 format=$3
mkdir -p -- "$d" 2>/dev/null || { sudo -n mkdir -p -- "$d"; sudo -n chown -- "$(id -u):$(id -g)" "$d"; }
cd -- "$d"
case $format in sha1) git init -q ;; *) git init -q --object-format="$format" ;; esac
git symbolic-ref HEAD "refs/heads/$b"
git config receive.denyCurrentBranch updateInstead
printf '%s\n' "$b" >.git/@MARK@
