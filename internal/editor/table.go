package editor

// Editor is one row of the table: facts about an editor that do not depend on the host.
type Editor struct {
	ID   string // the value for --editor
	Name string // for messages
	Kind Kind

	// Commands are launchers looked up on the PATH, best first.
	Commands []string
	// Paths are the usual paths of its launchers; "~/" is the home directory.
	Paths []string
	// Snap is the name below /snap/bin, empty if there is no snap.
	Snap string
	// Flatpak is the application id, empty if there is no flatpak.
	Flatpak string

	// Extension is the id of the extension that opens SSH hosts. BuiltIn is true if the editor
	// includes the extension or needs none.
	Extension string
	BuiltIn   bool
	// OpenSSH is true if the extension runs the host's ssh, so that an alias works as in "ssh ALIAS".
	// Other extensions have their own SSH client, which ignores the host key pinned by aivm.
	OpenSSH bool
	// ServerDir is the directory of the editor's server in the guest, below home.
	ServerDir string
	// SettingsDir contains settings.json on the host, below the user's configuration directory.
	// FlatpakSettingsDir is the same for the flatpak, below home.
	SettingsDir        string
	FlatpakSettingsDir string
	// DataFolder is a directory below home on the host; its "extensions" contains the installed
	// extensions.
	DataFolder string
	// ConfigFileKey is the setting with which its SSH extension reads another file than
	// ~/.ssh/config.
	ConfigFileKey string
	// Scheme is the URL scheme that the editor handles.
	Scheme string
	// Install tells how to get the editor: a command or a URL.
	Install string
}

// Kind tells how an editor opens a folder on an SSH host.
type Kind string

const (
	Desktop  Kind = ""            // Visual Studio Code and its forks: --remote
	Zed      Kind = "zed"         // ssh://ALIAS/path
	Gateway  Kind = "gateway"     // a jetbrains-gateway: link
	Browser  Kind = "code-server" // runs in the guest, reached through aivm's tunnel
	Terminal Kind = "terminal"    // ssh in the folder
	Print    Kind = "print"       // prints how to connect
)

// NeedsNoLauncher reports whether nothing has to be installed on the host.
func (k Kind) NeedsNoLauncher() bool { return k == Browser || k == Terminal || k == Print }

// Auto is the editor id for the first installed editor that uses OpenSSH.
const Auto = "auto"

// Editors returns the table in the order in which Auto tries it.
//
// Sources: the packages of the launchers (deb, rpm, tarball, AUR), snapcraft and flathub pages,
// product.json of each build for server and settings directories, cursor issue 3201 for the ssh
// program that Cursor runs.
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
