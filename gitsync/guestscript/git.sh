g() { git -c core.hooksPath=/dev/null -c core.fsmonitor=false "$@"; }
