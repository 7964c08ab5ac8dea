#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
exec "$here/../lib/node" "$here/../node_modules/code-server/out/node/entry.js" "$@"
