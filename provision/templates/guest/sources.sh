# Prints the addresses of the package archives that the VM's apt uses.
cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null | sed -n 's/^[[:space:]]*deb[[:space:]]*\(\[[^]]*\][[:space:]]*\)\{0,1\}\(https\{0,1\}:[^[:space:]]*\).*/\2/p'
cat /etc/apt/sources.list.d/*.sources 2>/dev/null | sed -n 's/^[Uu][Rr][Ii][Ss]:[[:space:]]*//p' | tr -s ' \t' '\n'
grep -rhoiE 'Acquire::https?::Proxy[[:space:]]+"[^"]+"' /etc/apt/apt.conf /etc/apt/apt.conf.d 2>/dev/null | grep -oE '"[^"]+"' | tr -d '"' || true
