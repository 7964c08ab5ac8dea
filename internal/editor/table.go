package editor

// Editor is one row of the table: what is true of an editor everywhere.
type Editor struct {
	ID   string // what --editor takes
	Name string // for people

	// Commands are launchers looked up on the PATH, best first.
	Commands []string
	// Paths are launchers at their usual places; "~/" is the home directory.
	Paths []string
	// Snap is the name below /snap/bin, empty if there is no snap.
	Snap string
	// Flatpak is the application id, empty if there is no flatpak.
	Flatpak string

	// Extension is the id of the extension that opens SSH hosts.
	Extension string
	// OpenSSH: that extension runs the host's ssh, so the alias means to it
	// exactly what it means to "ssh ALIAS". The others bring an SSH client of
	// their own, which ignores our pinned host key.
	OpenSSH bool
	// ServerDir is where the editor's server lives in the guest, below home.
	ServerDir string
	// SettingsDir holds settings.json on the host, below the user's
	// configuration directory; FlatpakSettingsDir the same below home.
	SettingsDir        string
	FlatpakSettingsDir string
	// Scheme is the URL scheme the editor answers to.
	Scheme string
	// Install says how to get the editor, a command or an address.
	Install string
}

// Auto is the name for "whichever of the editors that run OpenSSH is there".
const Auto = "auto"

// Editors returns the table in the order in which Auto tries it.
//
// Sources: the launchers' own packages (deb, rpm, tarball, AUR), snapcraft
// and flathub pages, product.json of each build for server and settings
// folders, cursor issue 3201 for the ssh that Cursor runs.
func Editors() []Editor {
	return []Editor{
		{
			ID: "code", Name: "Visual Studio Code",
			Commands: []string{"code"},
			Paths: []string{
				"/usr/bin/code", "/usr/local/bin/code", "/usr/share/code/bin/code",
				"/opt/visual-studio-code/bin/code", "/opt/VSCode-linux-x64/bin/code", "/opt/VSCode-linux-arm64/bin/code",
				"~/.local/bin/code", "~/VSCode-linux-x64/bin/code", "~/.local/share/code/bin/code",
			},
			Snap: "code", Flatpak: "com.visualstudio.code",
			Extension: "ms-vscode-remote.remote-ssh", OpenSSH: true,
			ServerDir: ".vscode-server", SettingsDir: "Code/User",
			FlatpakSettingsDir: ".var/app/com.visualstudio.code/config/Code/User",
			Scheme:             "vscode", Install: "https://code.visualstudio.com/docs/setup/linux",
		},
		{
			ID: "code-insiders", Name: "Visual Studio Code Insiders",
			Commands: []string{"code-insiders"},
			Paths: []string{
				"/usr/bin/code-insiders", "/usr/local/bin/code-insiders", "/usr/share/code-insiders/bin/code-insiders",
				"/opt/visual-studio-code-insiders/bin/code-insiders", "~/.local/bin/code-insiders",
				"~/VSCode-linux-x64/bin/code-insiders",
			},
			Snap: "code-insiders", Flatpak: "com.visualstudio.code.insiders",
			Extension: "ms-vscode-remote.remote-ssh", OpenSSH: true,
			ServerDir: ".vscode-server-insiders", SettingsDir: "Code - Insiders/User",
			FlatpakSettingsDir: ".var/app/com.visualstudio.code.insiders/config/Code - Insiders/User",
			Scheme:             "vscode-insiders", Install: "https://code.visualstudio.com/insiders",
		},
		{
			ID: "codium", Name: "VSCodium",
			Commands: []string{"codium", "vscodium"},
			Paths: []string{
				"/usr/bin/codium", "/usr/local/bin/codium", "/usr/share/codium/bin/codium",
				"/opt/vscodium-bin/bin/codium", "~/.local/bin/codium", "~/VSCodium-linux-x64/bin/codium",
			},
			Snap: "codium", Flatpak: "com.vscodium.codium",
			Extension: "jeanp413.open-remote-ssh",
			ServerDir: ".vscodium-server", SettingsDir: "VSCodium/User",
			FlatpakSettingsDir: ".var/app/com.vscodium.codium/config/VSCodium/User",
			Scheme:             "vscodium", Install: "https://vscodium.com/#install",
		},
		{
			ID: "cursor", Name: "Cursor",
			Commands: []string{"cursor"},
			Paths: []string{
				"/usr/bin/cursor", "/usr/local/bin/cursor", "/usr/share/cursor/bin/cursor",
				"/opt/cursor/bin/cursor", "~/.local/bin/cursor",
			},
			Extension: "anysphere.remote-ssh", OpenSSH: true,
			ServerDir: ".cursor-server", SettingsDir: "Cursor/User",
			Scheme: "cursor", Install: "https://cursor.com/downloads",
		},
	}
}

// ByID returns the editor with this id.
func ByID(id string) (Editor, bool) {
	for _, e := range Editors() {
		if e.ID == id {
			return e, true
		}
	}
	return Editor{}, false
}

// IDs returns the ids of the table, in its order.
func IDs() []string {
	var ids []string
	for _, e := range Editors() {
		ids = append(ids, e.ID)
	}
	return ids
}
