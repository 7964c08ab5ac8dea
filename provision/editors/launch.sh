cd
IFS= read -r PASSWORD
NODE_OPTIONS='--import data:text/javascript,@RAISE_TIMEOUT@'
export PASSWORD NODE_OPTIONS
exec "./$1/bin/code-server" --bind-addr 127.0.0.1:0 --auth password --disable-telemetry --disable-update-check --disable-workspace-trust --disable-getting-started-override "$2" </dev/null
