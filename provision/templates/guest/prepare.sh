# Before a step of setup, in the VM: no service is started by what is installed.
set -eu
mkdir -p /root/.aivm-setup
chmod 700 /root/.aivm-setup
printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
