# Prints NAME=VERSION of the tools, in the VM.
v() {
	n=$1
	shift
	out=$("$@" 2>/dev/null </dev/null | head -n 1 | grep -oE '[0-9]+(\.[0-9]+)+[A-Za-z0-9.+~-]*' | head -n 1) || true
	if test -n "$out"; then echo "$n=$out"; fi
}
v git git --version
v fd fd --version
v rg rg --version
v curl curl --version
v jq jq --version
v bash bash --version
v python3 python3 --version
v pip python3 -m pip --version
v node node --version
v npm npm --version
v make make --version
v patch patch --version
v file file --version
v sqlite3 sqlite3 --version
v sudo sudo --version
# shellcheck source=/dev/null
. /etc/os-release
echo "os=$ID-$VERSION_ID"
