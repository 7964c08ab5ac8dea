# After the default packages, in the VM: names that people expect.
set -eu
if command -v fdfind >/dev/null && ! command -v fd >/dev/null; then
	ln -s "$(command -v fdfind)" /usr/local/bin/fd
fi
if ! command -v python >/dev/null; then
	ln -s "$(command -v python3)" /usr/local/bin/python
fi
