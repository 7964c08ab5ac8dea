package share

import "slices"

// The paths of the lists below are relative to a user's home; ".config/x" also stands
// for x in XDG_CONFIG_HOME, ".local/share/x" for x in XDG_DATA_HOME. A path may be a
// file or a directory; a directory stands for everything in it.

// credentials are paths that hold keys, tokens, passwords, or the settings of a program
// that keeps such beside them.
var credentials = []string{
	// agents
	".claude", ".claude.json", ".codex", ".gemini", ".qwen", ".copilot", ".codeium", ".continue", ".cursor/mcp.json", ".cursor/cli-config.json", ".windsurf", ".kiro", ".amazonq",
	".config/github-copilot", ".config/opencode", ".local/share/opencode", ".config/goose", ".config/amp", ".local/share/amp", ".config/crush", ".aider.conf.yml",
	// packages and builds
	".cargo", ".m2", ".gradle", ".ivy2", ".sbt", ".nuget", ".gem", ".bundle", ".composer", ".config/composer", ".config/pypoetry", ".config/pip", ".pip",
	".local/share/uv/credentials", ".config/hatch", ".jfrog", ".yarnrc.yml", ".config/configstore", ".huggingface", ".cache/huggingface/token", ".kaggle", ".config/wandb",
	// forges, clouds, infrastructure
	".config/git", ".git-credentials", ".config/hub", ".config/glab-cli", ".config/tea", ".config/helm", ".config/containers", ".config/doctl", ".config/hcloud",
	".config/heroku", ".config/netlify", ".config/stripe", ".config/linode-cli", ".config/scw", ".config/solana", ".local/share/com.vercel.cli", ".fly", ".oci", ".aliyun",
	".bluemix", ".vault-token", ".pulumi", ".terraformrc", ".databrickscfg", ".databricks", ".snowflake", ".snowsql", ".boto", ".s3cfg", ".config/s3cmd", ".mc", ".step",
	".minikube", ".chef", ".vagrant.d", ".ansible",
	// keys, passwords, databases, mail
	".config/age", ".passage", ".config/passage", ".config/gopass", ".local/share/gopass", ".config/1Password", ".config/Bitwarden", ".config/Bitwarden CLI", ".config/keepassxc",
	".pki", ".gnome2/keyrings", ".local/share/kwalletd", ".putty", ".config/putty", ".pgpass", ".my.cnf", ".mylogin.cnf", ".authinfo", ".authinfo.gpg", ".smbcredentials", ".davfs2",
	".msmtprc", ".mbsyncrc", ".offlineimaprc", ".fetchmailrc", ".config/syncthing", ".local/state/syncthing", ".config/borg", ".config/filezilla", ".config/remmina",
	".local/share/remmina", ".electrum", ".bitcoin", ".ethereum",
	// browsers, mail, messengers, editors that keep logins, packaged programs' data
	".config/mozilla", ".librewolf", ".waterfox", ".zen", ".config/BraveSoftware", ".config/microsoft-edge", ".config/vivaldi", ".config/opera", ".config/google-chrome-beta",
	".config/google-chrome-unstable", ".config/epiphany", ".local/share/epiphany", ".local/share/torbrowser", ".config/evolution", ".local/share/evolution", ".config/Signal",
	".config/Slack", ".config/discord", ".config/Element", ".local/share/TelegramDesktop", ".purple",
	".config/Code", ".config/Code - Insiders", ".config/VSCodium", ".config/Cursor", ".config/Windsurf", ".config/JetBrains", ".var/app", "snap",
}

// credentialVars are environment variables that hold such a path.
var credentialVars = []string{
	"GNUPGHOME", "KUBECONFIG", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "DOCKER_CONFIG", "GOOGLE_APPLICATION_CREDENTIALS", "CLOUDSDK_CONFIG", "AZURE_CONFIG_DIR",
	"CLAUDE_CONFIG_DIR", "CODEX_HOME", "GH_CONFIG_DIR", "PASSWORD_STORE_DIR", "NPM_CONFIG_USERCONFIG", "CARGO_HOME", "GRADLE_USER_HOME", "SOPS_AGE_KEY_FILE",
}

// startupFiles are paths that a login, a session, a shell, an editor or another program
// on the host runs or obeys by itself.
var startupFiles = []string{
	// shells
	".profile", ".bash_profile", ".bash_login", ".bashrc", ".bash_logout", ".bash_aliases", ".bash_completion", ".bashrc.d", ".bash.d", ".inputrc", ".blerc",
	".zshenv", ".zprofile", ".zshrc", ".zlogin", ".zlogout", ".zsh", ".zshrc.d", ".zimrc", ".zim", ".p10k.zsh", ".zpreztorc", ".zprezto", ".oh-my-zsh", ".oh-my-bash", ".antigenrc",
	".kshrc", ".mkshrc", ".shrc", ".shinit", ".yashrc", ".yash_profile", ".cshrc", ".tcshrc", ".login", ".logout", ".xonshrc", ".elvish", ".direnvrc", ".asdfrc", ".sh.d",
	".config/bash", ".config/zsh", ".config/fish", ".local/share/fish", ".config/nushell", ".config/xonsh", ".config/elvish", ".config/ion", ".config/powershell",
	".config/starship.toml", ".config/direnv", ".config/mise", ".local/share/bash-completion", ".config/readline", ".config/shell",
	// login and session
	".pam_environment", ".config/environment.d", ".xprofile", ".xsession", ".xsessionrc", ".xinitrc", ".xserverrc", ".Xclients", ".Xresources", ".Xdefaults", ".gnomerc",
	".config/autostart", ".config/autostart-scripts", ".config/systemd", ".local/share/systemd", ".config/user-dirs.dirs", ".config/mimeapps.list", ".config/dconf",
	".local/share/applications", ".local/share/dbus-1", ".local/share/gnome-shell", ".local/share/plasma", ".local/share/kservices5", ".local/share/kio", ".local/share/thumbnailers",
	".local/share/nautilus", ".local/share/nautilus-python", ".local/share/nemo", ".config/Thunar", ".config/plasma-workspace", ".config/kglobalshortcutsrc", ".config/khotkeysrc",
	".config/lxsession", ".config/lxqt", ".config/xfce4", ".config/openbox", ".fluxbox", ".config/i3", ".i3", ".config/i3status", ".config/sway", ".config/hypr", ".config/niri",
	".config/river", ".config/bspwm", ".config/sxhkd", ".config/awesome", ".config/qtile", ".xmonad", ".config/xmonad", ".config/polybar", ".config/waybar", ".config/rofi",
	".config/dunst", ".config/eww",
	// terminals
	".tmux.conf", ".tmux", ".config/tmux", ".byobu", ".config/byobu", ".screenrc", ".config/zellij", ".config/kitty", ".config/alacritty", ".alacritty.toml", ".alacritty.yml",
	".config/wezterm", ".wezterm.lua", ".config/ghostty", ".config/foot", ".config/terminator", ".hyper.js", ".config/Hyper",
	// editors
	".vimrc", ".vim", ".gvimrc", ".exrc", ".nvimrc", ".ideavimrc", ".config/vim", ".config/nvim", ".local/share/nvim", ".emacs", ".emacs.el", ".emacs.d", ".config/emacs",
	".spacemacs", ".spacemacs.d", ".doom.d", ".config/doom", ".config/helix", ".config/kak", ".config/micro", ".nanorc", ".config/nano", ".config/sublime-text", ".config/zed",
	".local/share/zed", ".local/share/JetBrains", ".config/lapce", ".vscode", ".vscode-insiders", ".vscode-oss", ".cursor/extensions", ".cursor/hooks.json", ".cursor/hooks", ".cursor/commands", ".cursor/rules", ".config/code-flags.conf", ".gdbinit", ".config/gdb", ".lldbinit",
	".config/Code/User", ".config/Code - Insiders/User", ".config/VSCodium/User", ".config/Cursor/User", ".config/Windsurf/User",
	// agents and build tools, in directories that also have credentials
	".claude/hooks", ".claude/commands", ".claude/agents", ".claude/skills", ".claude/plugins", ".codex/hooks.json", ".gemini/extensions", ".gemini/commands",
	".config/opencode/plugin", ".config/opencode/plugins", ".config/opencode/command", ".continue/config.ts", ".cargo/bin", ".gradle/init.d", ".config/git/hooks",
	".config/containers/systemd", ".docker/cli-plugins",
	// git, ssh, the network
	".gitconfig", ".hgrc", ".config/hg", ".jjconfig.toml", ".config/jj", ".config/lazygit", ".gitui", ".tigrc", ".config/tig",
	".ssh/config", ".ssh/config.d", ".ssh/rc", ".ssh/environment", ".ssh/authorized_keys", ".ssh/authorized_keys2", ".rhosts", ".shosts", ".k5login", ".k5users",
	".curlrc", ".wgetrc", ".config/curlrc", ".forward", ".procmailrc", ".mailfilter", ".mailcap", ".muttrc", ".mutt", ".config/mutt", ".config/neomutt", ".config/aerc",
	// languages
	".pythonrc", ".pythonrc.py", ".pdbrc", ".ipython", ".jupyter", ".pydistutils.cfg", ".local/lib", ".yarnrc", ".config/yarn", ".bunfig.toml", ".node_modules", ".node_libraries",
	".irbrc", ".config/irb", ".pryrc", ".config/pry", ".Rprofile", ".Renviron", ".iex.exs", ".erlang", ".ocamlinit", ".config/ocaml", ".opam", ".ghci", ".ghc", ".stack", ".cabal",
	".config/cabal", ".perldb", ".perl5", ".cpan", ".mavenrc", ".ant", ".lein", ".clojure", ".config/clojure", ".julia/config", ".octaverc", ".sbclrc", ".guile", ".racketrc",
	".luarocks", ".config/luarocks", ".psqlrc", ".sqliterc", ".config/sqlite3", ".bazelrc", ".ansible.cfg", ".lesskey", ".lessfilter", ".config/lesskey", ".config/go",
	// package managers, and what they put on PATH
	".config/nix", ".config/nixpkgs", ".config/home-manager", ".nix-profile", ".nix-defexpr", ".local/state/nix", ".guix-profile", ".config/guix", ".linuxbrew",
	".npm-global", ".config/yarn/global", ".local/share/pnpm", ".local/share/pipx", ".local/pipx", ".local/share/uv/tools",
	".asdf", ".local/share/mise", ".pyenv", ".rbenv", ".nodenv", ".nvm", ".volta", ".sdkman", ".jenv", ".goenv", ".rvm", ".local/share/fnm", ".proto",
	".deno", ".bun", ".rustup", ".poetry", ".ghcup", ".local/share/coursier", ".pixi", ".nimble", ".foundry", ".mix", ".tfenv", "miniconda3", "anaconda3",
	"miniforge3", "mambaforge", ".conda", ".condarc",
	// other programs that run what their settings say
	".config/mpv", ".config/yt-dlp", ".config/ranger", ".config/lf", ".config/nnn", ".config/mc", ".config/vifm", ".config/yazi", ".config/qutebrowser", ".config/newsboat",
	".newsboat", ".terraform.rc",
}

// programDirs are directories of programs that are run by name. Only files directly in
// them count, not their subdirectories.
var programDirs = []string{
	".local/bin", "bin", "go/bin", ".go/bin", ".yarn/bin", ".npm-global/bin", ".krew/bin", ".dotnet/tools", ".pub-cache/bin", ".cabal/bin", ".nimble/bin", ".composer/vendor/bin",
	".config/composer/vendor/bin", ".luarocks/bin", ".fly/bin", ".arkade/bin", ".istioctl/bin",
}

// belowVars are environment variables that hold a directory, with the names in it that
// count.
var belowVars = map[string][]string{
	"ZDOTDIR":           {".zshenv", ".zprofile", ".zshrc", ".zlogin", ".zlogout"},
	"CURL_HOME":         {".curlrc", "curlrc"},
	"CLAUDE_CONFIG_DIR": {"hooks", "commands", "agents", "skills", "plugins"},
	"CODEX_HOME":        {"hooks.json", "prompts"},
	"CARGO_HOME":        {"bin"},
	"GRADLE_USER_HOME":  {"init.d"},
}

// startupVars are environment variables that hold a path like those in startupFiles;
// programVars hold a command whose first word may be a path.
var (
	startupVars = []string{
		"ENV", "BASH_ENV", "PYTHONSTARTUP", "PYTHONUSERBASE", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_EXEC_PATH", "GIT_TEMPLATE_DIR", "INPUTRC", "SCREENRC", "XINITRC", "RUSTUP_HOME",
		"GOROOT", "JAVA_HOME", "PYENV_ROOT", "RBENV_ROOT", "NVM_DIR", "ASDF_DIR", "ASDF_DATA_DIR", "VOLTA_HOME", "STARSHIP_CONFIG", "LESSKEYIN", "PSQLRC", "WGETRC", "IPYTHONDIR",
	}
	programVars = []string{"EDITOR", "VISUAL", "PAGER", "BROWSER", "SHELL", "SSH_ASKPASS", "SUDO_ASKPASS", "GIT_ASKPASS", "GIT_EDITOR", "GIT_PAGER", "GIT_SSH", "GIT_SSH_COMMAND", "LESSOPEN", "MANPAGER"}
)

// pathVars are environment variables that list paths from which programs on the host
// load programs, libraries or modules.
var pathVars = []string{"PATH", "LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH", "PERL5LIB", "RUBYLIB", "NODE_PATH"}

// PathVars returns the names of environment variables that list paths from which
// programs on the host, including aivm, load programs, libraries or modules.
func PathVars() []string { return slices.Clone(pathVars) }

// systemDirs are the directories of the host's own programs.
var systemDirs = []string{
	"/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/lib", "/lib", "/lib64", "/usr/libexec", "/usr/local/bin", "/usr/local/sbin", "/usr/local/lib", "/usr/local/libexec",
	"/usr/share/applications", "/usr/share/dbus-1", "/usr/share/systemd", "/usr/local/share/applications", "/var/spool/cron", "/snap/bin", "/var/lib/snapd", "/var/lib/flatpak", "/nix",
	"/home/linuxbrew",
}
