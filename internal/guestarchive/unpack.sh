set -e
cd
mkdir -p "$1"
rm -rf "${1:?}"/in.*
t=$(mktemp -d "$1/in.XXXXXX")
trap 'rm -rf "$t"' EXIT
tar -xzf - --strip-components=1 -C "$t"
[ -x "$t/$3" ]
rm -rf "${1:?}/${2:?}"
mv "$t" "$1/$2"
