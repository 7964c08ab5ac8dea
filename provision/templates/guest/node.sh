# Installs Node and npm from the npm registry $NPM_REGISTRY, in the VM, without Node: metadata by
# curl and jq, each archive compared with its SHA-512.
set -eu
registry=${NPM_REGISTRY%/}
case $(dpkg --print-architecture) in
amd64) arch=x64 ;;
arm64) arch=arm64 ;;
*) echo "npm has no Node for this architecture" >&2; exit 1 ;;
esac
case $registry in
https://*) proto="=https" ;;
http://*) proto="=http,https" ;;
*) echo "the npm registry is no http address: $registry" >&2; exit 1 ;;
esac
work=$(mktemp -d /root/.aivm-setup/npm.XXXXXX)
trap 'rm -rf "$work"' EXIT
get() {
	curl -fsSL --proto "$proto" --proto-redir "$proto" --connect-timeout 30 --retry 3 ${NPM_CA:+--cacert "$NPM_CA"} "$@"
}
# fetch NAME: downloads the newest version of a package to $work/NAME.tgz.
fetch() {
	echo "fetching $1 from the npm registry"
	get --max-filesize 20000000 -o "$work/meta.json" "$registry/$1/latest"
	url=$(jq -er '.dist.tarball | strings' "$work/meta.json")
	want=$(jq -er '.dist.integrity | strings | split(" ")[] | select(startswith("sha512-"))' "$work/meta.json" | head -n 1)
	test -n "$want" || { echo "$1: the registry gives no SHA-512" >&2; exit 1; }
	get --max-filesize 300000000 -o "$work/$1.tgz" "$url"
	got=sha512-$(openssl dgst -sha512 -binary "$work/$1.tgz" | base64 -w0)
	test "$got" = "$want" || { echo "$1: the archive is $got, the registry says $want" >&2; exit 1; }
}
fetch "node-linux-$arch"
fetch npm
tar -xzf "$work/node-linux-$arch.tgz" -C /usr/local --strip-components=1 --no-same-owner --exclude='*/README.md' --exclude='*/LICENSE' --exclude='*/CHANGELOG.md' --exclude='*/package.json'
rm -rf /usr/local/lib/node_modules/npm
mkdir -p /usr/local/lib/node_modules/npm
tar -xzf "$work/npm.tgz" -C /usr/local/lib/node_modules/npm --strip-components=1 --no-same-owner
chmod 755 /usr/local/bin/node /usr/local/lib/node_modules/npm/bin/npm-cli.js /usr/local/lib/node_modules/npm/bin/npx-cli.js
ln -sf ../lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm
ln -sf ../lib/node_modules/npm/bin/npx-cli.js /usr/local/bin/npx
node -e 'process.exit(0)'
npm --version >/dev/null
