package record

var hostRows = []row{
	{"status", attached, "status", false},
	{"status-json", attached, "status --json", false},
	{"status-detail", attached, "status --detail", false},
	{"status-off", all(attached, off), "status", false},
	{"status-nothing", proj, "status", false},
	{"status-bare", all(proj, bare), "status", false},
	{"status-host-rebooted", all(attached, hostRebooted), "status", false},
	{"status-guest-rebooted", all(attached, rebooted), "status", false},
	{"status-wall-gone", all(attached, firewallFlushed), "status", false},
	{"status-impostor", all(attached, wrongHostKey), "status", false},
	{"status-silent", all(attached, guestUnreachable), "status", false},
	{"status-closed", all(attached, libvirtDenied), "status", false},
	{"status-stopped", all(attached, stopped), "status", false},
	{"status-clone", all(cloned, committed), "status", false},
	{"status-old", vm03, "status", false},
	{"status-paused", all(attached, paused), "status --detail", false},
	{"vm-status", attached, "vm status box", false},
	{"list", attached, "list", false},
	{"list-json", all(attached, ran("vm create other --yes --image "+imageFile)), "list --json", false},
	{"list-off", all(attached, off), "list", false},
	{"list-detached", all(attached, unmounted), "list", false},
	{"list-lost", all(attached, lostFolder, lostDomain), "list", false},
	{"list-empty", nil, "list", false},
	{"list-closed", all(attached, libvirtDenied), "list", false},
	{"list-old", vm03, "list", false},
	{"doctor", nil, "host doctor", false},
	{"doctor-json", attached, "host doctor --json", false},
	{"doctor-bare", bare, "host doctor", false},
	{"doctor-sudo", all(attached, libvirtDenied), "host doctor --sudo", false},
	{"doctor-stopped", stopped, "host doctor", false},
	{"doctor-no-kvm", noKVM, "host doctor -v", false},
	{"doctor-alias-gone", all(attached, aliasGone), "host doctor", false},
	{"doctor-wall-left", all(created, ran("vm delete box --yes")), "host doctor --sudo", false},
	{"doctor-fix-bare", bare, "host doctor --fix --yes", true},
	{"doctor-fix-alias", all(attached, aliasGone), "host doctor --fix --yes", true},
	{"doctor-fix-stopped", stopped, "host doctor --fix --yes", true},
	{"doctor-fix-nothing", nil, "host doctor --fix --yes", true},
	{"install-deps", bare, "host install-deps --yes", true},
	{"install-deps-nothing", nil, "host install-deps --yes", true},
	{"fw-apply", all(created, firewallFlushed), "host fw apply --yes", false},
	{"fw-apply-in-place", created, "host fw apply", false},
	{"fw-apply-dry-run", created, "host fw apply --dry-run", false},
	{"fw-apply-config", all(created, lan), "host fw apply --yes", true},
	{"fw-status", created, "host fw status", false},
	{"fw-status-json", all(created, firewallAltered), "host fw status --json", false},
	{"fw-status-sudo", all(created, foreignChains), "host fw status --sudo", false},
	{"fw-remove", created, "host fw remove --yes", true},
	{"fw-off", all(created, firewallDisabled), "host fw apply --yes", true},
	{"net-create", nil, "host net create --yes", true},
	{"net-create-named", created, "host net create second --yes", true},
	{"net-create-there", created, "host net create aivm-net --yes", true},
	{"net-status", created, "host net status", false},
	{"net-status-json", created, "host net status --json", false},
	{"net-status-none", nil, "host net status", false},
	{"net-destroy-used", created, "host net destroy aivm-net --yes", true},
	{"net-destroy-force", created, "host net destroy aivm-net --force --yes", true},
	{"net-destroy", all(created, ran("vm delete box --yes")), "host net destroy aivm-net --yes", true},
}

// lan allows services in the config; firewallDisabled disables the firewall.
func lan(w *world) {
	w.edit(storePath, "enabled = true", "enabled = true\nallow_lan = [\"192.0.2.7:443\"]\nallow_tcp_ports = [\"8080\"]")
}

func firewallDisabled(w *world) { w.edit(storePath, "enabled = true", "enabled = false") }

var settingsRows = []row{
	{"settings", all(created, dotfiles), "vm sync-settings box", true},
	{"settings-again", all(created, dotfiles, ran("vm sync-settings box")), "vm sync-settings box", true},
	{"settings-changed", all(created, dotfiles, ran("vm sync-settings box"), dotfilesChanged), "vm sync-settings box", true},
	{"settings-guest-changed", all(created, dotfiles, ran("vm sync-settings box"), guestDotfiles, dotfilesChanged), "vm sync-settings box", true},
	{"settings-keep", all(created, dotfiles, ran("vm sync-settings box"), guestDotfiles, dotfilesChanged), "vm sync-settings box --overwrite=false", true},
	{"settings-paths", all(created, dotfiles), "vm sync-settings box --paths ~/.tmux.conf", true},
	{"settings-secret", all(created, dotfiles, secret), "vm sync-settings box --paths ~/.netrc", true},
	{"settings-editor", all(created, dotfiles, editorSettings), "vm sync-settings box --editor code", true},
	{"settings-off", all(created, dotfiles, off), "vm sync-settings box", true},
	{"settings-code", all(attached, dotfiles, editorSettings), "code . --sync-settings", true},
}

func dotfiles(w *world) {
	w.write(homeDir+"/.gitconfig", "[user]\n\tname = Person\n\temail = person@example.org\n[init]\n\tdefaultBranch = main\n", 0o644)
	w.write(homeDir+"/.tmux.conf", "set -g mouse on\n", 0o644)
	w.write(homeDir+"/.bash_aliases", "alias ll='ls -l'\n", 0o644)
	w.write(homeDir+"/.vimrc", "set number\n", 0o644)
}

func dotfilesChanged(w *world) {
	w.write(homeDir+"/.gitconfig", "[user]\n\tname = Person\n\temail = person@example.org\n[init]\n\tdefaultBranch = trunk\n[alias]\n\tst = status\n", 0o644)
}

func guestDotfiles(w *world) { w.write(guestHome+"/.gitconfig", "[user]\n\tname = Somebody\n", 0o644) }

func secret(w *world) {
	w.write(homeDir+"/.netrc", "machine example.org login me password hunter2hunter2\n", 0o600)
}

func editorSettings(w *world) {
	w.write(homeDir+"/.config/Code/User/settings.json", "{\n\t// mine\n\t\"editor.fontSize\": 14,\n\t\"files.autoSave\": \"afterDelay\"\n}\n", 0o644)
}

var storeRows = []row{
	{"adopt", vm03, "vm adopt --yes", true},
	{"adopt-refused", vm03, "vm adopt", true},
	{"adopt-stranger", all(vm03, vm03UnknownHostKey), "vm adopt --yes", true},
	{"adopt-stranger-asked", all(vm03, vm03UnknownHostKey, typed("y\ny\n")), "vm adopt", false},
	{"adopt-off", all(vm03, vm03Off), "vm adopt --yes", true},
	{"adopt-again", adopted, "vm adopt --yes", true},
	{"adopt-before-code", vm03, "code . --yes", true},
	{"adopt-before-ssh", vm03, "ssh . -- hostname", true},
	{"adopt-before-delete", vm03, "vm delete aivm-2404 --yes", true},
	{"adopted-code", adopted, "code . --yes", true},
	{"adopted-restart", adopted, "vm restart --yes", true},
	{"adopted-moved-code", all(adopted, ran("vm restart --yes")), "code . --yes", true},
	{"adopted-status", adopted, "status", false},
	{"adopted-delete", adopted, "vm delete aivm-2404 --yes", true},
	{"adopted-snapshots", adopted, "vm snapshots", false},
	{"image-list", withImage, "image list", false},
	{"image-list-json", withImage, "image list --json", false},
	{"image-list-used", created, "image list", false},
	{"image-fetch-file", nil, "image fetch " + imageFile, true},
	{"image-fetch-again", withImage, "image fetch --again " + imageFile, true},
	{"image-fetch-packages", nil, "image fetch packages:debian-12 --yes", true},
	{"image-fetch-no-server", nil, "image fetch ubuntu-24.04 --yes", true},
	{"image-fetch-unknown", nil, "image fetch nonsense", true},
	{"image-verify", withImage, "image verify", false},
	{"image-remove", withImage, "image remove --unused --yes", true},
	{"image-remove-used", created, "image remove --unused --yes", true},
	{"config-init", nil, "config init --yes", false},
	{"config-show", attached, "config show", false},
	{"config-path", attached, "config path", false},
	{"config-lint", attached, "config lint", false},
	{"config-lint-unknown", all(attached, func(w *world) { w.edit(storePath, "schema_version = 5", "schema_version = 5\nnonsense = 1") }), "config lint", false},
	{"config-later", all(attached, func(w *world) { w.edit(storePath, "schema_version = 5", "schema_version = 6") }), "code . --yes", true},
	{"store-lost", all(attached, lostStore), "code . --yes --image " + imageFile, true},
	{"editors", nil, "editors", false},
	{"help-plan", nil, "help plan", false},
}
