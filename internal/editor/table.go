package editor

// Editor is one row of the table: what is true of an editor everywhere.
type Editor struct {
	ID   string // what --editor takes
	Name string // for people
	Kind Kind

	// Commands are launchers looked up on the PATH, best first.
	Commands []string
	// Paths are launchers at their usual places; "~/" is the home directory.
	Paths []string
	// Snap is the name below /snap/bin, empty if there is no snap.
	Snap string
	// Flatpak is the application id, empty if there is no flatpak.
	Flatpak string

	// Extension is the id of the extension that opens SSH hosts; BuiltIn, that
	// the editor brings it, or needs none.
	Extension string
	BuiltIn   bool
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
	// DataFolder is below the home on this machine; its "extensions" holds what
	// is installed here.
	DataFolder string
	// ConfigFileKey is the setting that makes its SSH extension read another
	// configuration than ~/.ssh/config.
	ConfigFileKey string
	// Scheme is the URL scheme the editor answers to.
	Scheme string
	// Install says how to get the editor, a command or an address.
	Install string
}

// Kind is how a folder on an SSH host is opened.
type Kind string

const (
	Desktop  Kind = ""            // Visual Studio Code and its forks: --remote
	Zed      Kind = "zed"         // ssh://ALIAS/path
	Gateway  Kind = "gateway"     // a jetbrains-gateway: link
	Browser  Kind = "code-server" // in the guest, through a tunnel of ours
	Terminal Kind = "terminal"    // ssh in the folder
	Print    Kind = "print"       // how to connect
)

// Here reports whether nothing has to be installed on this machine.
func (k Kind) Here() bool { return k == Browser || k == Terminal || k == Print }

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
			Extension: "ms-vscode-remote.remote-ssh", OpenSSH: true, ConfigFileKey: "remote.SSH.configFile",
			ServerDir: ".vscode-server", DataFolder: ".vscode", SettingsDir: "Code/User",
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
			Extension: "ms-vscode-remote.remote-ssh", OpenSSH: true, ConfigFileKey: "remote.SSH.configFile",
			ServerDir: ".vscode-server-insiders", DataFolder: ".vscode-insiders", SettingsDir: "Code - Insiders/User",
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
			Extension: "jeanp413.open-remote-ssh", ConfigFileKey: "remote.SSH.configFile",
			ServerDir: ".vscodium-server", DataFolder: ".vscode-oss", SettingsDir: "VSCodium/User",
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
			Extension: "anysphere.remote-ssh", BuiltIn: true, OpenSSH: true, ConfigFileKey: "remote.SSH.configFile",
			ServerDir: ".cursor-server", DataFolder: ".cursor", SettingsDir: "Cursor/User",
			Scheme: "cursor", Install: "https://cursor.com/downloads",
		},
		{
			ID: "windsurf", Name: "Windsurf",
			Commands: []string{"windsurf"},
			Paths: []string{
				"/usr/bin/windsurf", "/usr/local/bin/windsurf", "/usr/share/windsurf/bin/windsurf",
				"/opt/windsurf/bin/windsurf", "/opt/Windsurf/bin/windsurf", "~/.local/bin/windsurf", "~/Windsurf/bin/windsurf",
			},
			Extension: "codeium.windsurf-remote-openssh", BuiltIn: true, OpenSSH: true,
			ServerDir: ".windsurf-server", DataFolder: ".windsurf", SettingsDir: "Windsurf/User", ConfigFileKey: "remote.windsurfSSH.configFile",
			Scheme: "windsurf", Install: "https://windsurf.com/editor/download-linux",
		},
		{
			ID: "antigravity", Name: "Antigravity",
			Commands: []string{"antigravity"},
			Paths: []string{
				"/usr/bin/antigravity", "/usr/local/bin/antigravity", "/usr/share/antigravity/bin/antigravity",
				"/opt/antigravity/bin/antigravity", "/opt/Antigravity/bin/antigravity", "~/.local/bin/antigravity",
			},
			Extension: "google.antigravity-remote-openssh", BuiltIn: true, OpenSSH: true,
			ServerDir: ".antigravity-server", DataFolder: ".antigravity", SettingsDir: "Antigravity/User", ConfigFileKey: "remote.antigravitySSH.configFile",
			Scheme: "antigravity", Install: "https://antigravity.google/download",
		},
		{
			ID: "positron", Name: "Positron",
			Commands: []string{"positron"},
			Paths: []string{
				"/usr/bin/positron", "/usr/local/bin/positron", "/usr/share/positron/bin/positron",
				"/opt/positron/bin/positron", "/opt/Positron/bin/positron", "~/.local/bin/positron",
			},
			Extension: "jeanp413.open-remote-ssh", BuiltIn: true,
			ServerDir: ".positron-server", DataFolder: ".positron", SettingsDir: "Positron/User", ConfigFileKey: "remote.SSH.configFile",
			Scheme: "positron", Install: "https://positron.posit.co/download",
		},
		{
			ID: "zed", Name: "Zed", Kind: Zed,
			Commands: []string{"zed", "zeditor", "zedit"},
			Paths:    []string{"/usr/bin/zeditor", "/usr/bin/zed", "/usr/local/bin/zed", "~/.local/bin/zed", "~/.local/zed.app/bin/zed"},
			Flatpak:  "dev.zed.Zed", FlatpakSettingsDir: ".var/app/dev.zed.Zed/config/zed",
			BuiltIn: true, OpenSSH: true,
			ServerDir: ".zed_server", SettingsDir: "zed", Scheme: "zed", Install: "https://zed.dev/docs/linux",
		},
		{
			ID: "gateway", Name: "JetBrains Gateway", Kind: Gateway,
			Commands: []string{"gateway", "jetbrains-gateway"},
			Paths: []string{
				"~/.local/share/JetBrains/Toolbox/scripts/gateway", "~/.local/share/JetBrains/Toolbox/apps/gateway/bin/gateway",
				"/opt/JetBrainsGateway/bin/gateway", "/opt/jetbrains-gateway/bin/gateway", "/opt/gateway/bin/gateway", "~/.local/bin/gateway",
			},
			BuiltIn: true, ServerDir: ".cache/JetBrains/RemoteDev", Scheme: "jetbrains-gateway",
			Install: "https://www.jetbrains.com/remote-development/gateway/",
		},
		{ID: "code-server", Name: "code-server", Kind: Browser, BuiltIn: true, ServerDir: ".local/share/code-server"},
		{ID: "terminal", Name: "a terminal", Kind: Terminal, BuiltIn: true, OpenSSH: true},
		{ID: "print", Name: "instructions", Kind: Print, BuiltIn: true},
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
