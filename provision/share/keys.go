package share

import (
	"path/filepath"
	"slices"
	"strings"
)

// keys finds the credentials that lead into the folder.
func (l *leadFinder) keys() {
	for _, home := range l.homes() {
		for _, s := range slices.Concat(secrets, credentials) {
			for _, path := range l.places(home, s) {
				if s == ".ssh" {
					l.sshKeys(path)
					continue
				}
				l.keyPlace(s, l.displayName(path), path)
			}
		}
	}
	for _, v := range credentialVars {
		for _, path := range filepath.SplitList(l.getenv(v)) {
			if filepath.IsAbs(path) {
				l.keyPlace(credentialHomes[v], v+"="+path, path)
			}
		}
	}
}

// keyPlace works like place for an entry of credentials. Links in it that have the name
// of a setting (settings) are not credentials; they count as host-executed.
func (l *leadFinder) keyPlace(entry, name, path string) {
	var all []Lead
	l.place(&all, name, path, false)
	for _, a := range all {
		if rest, below := strings.CutPrefix(a.Place, name+"/"); below && slices.Contains(settings[entry], rest) {
			l.out.HostExecuted = append(l.out.HostExecuted, a)
			l.seen[filepath.Join(path, rest)] = true
			continue
		}
		l.out.Keys = append(l.out.Keys, a)
	}
}

// sshKeys works like place for ~/.ssh, in which some files are not secret.
func (l *leadFinder) sshKeys(path string) {
	var all []Lead
	l.place(&all, l.displayName(path), path, false)
	for _, a := range all {
		if !slices.Contains([]string{"config", "config.d", "rc", "environment", "authorized_keys", "authorized_keys2", "known_hosts", "known_hosts.old"}, filepath.Base(a.Place)) {
			l.out.Keys = append(l.out.Keys, a)
		}
	}
	delete(l.seen, path)
}

// agentSettings are files that coding agents obey and that people keep in a repository
// of dotfiles.
var agentSettings = []string{"CLAUDE.md", "AGENTS.md", "GEMINI.md", "settings.json", "commands", "prompts", "agents", "skills", "hooks"}

// settings are, by directory of credentials, the names in it that hold settings and no
// credentials.
var settings = map[string][]string{
	".claude": agentSettings, ".codex": agentSettings, ".gemini": agentSettings, ".qwen": agentSettings, ".copilot": agentSettings, ".config/opencode": agentSettings,
	".config/goose": agentSettings, ".config/amp": agentSettings, ".config/crush": agentSettings,
	".config/git": {"config", "ignore", "attributes", "hooks"}, ".cargo": {"bin", "config.toml"},
	".config/Code": {"User"}, ".config/Code - Insiders": {"User"}, ".config/VSCodium": {"User"}, ".config/Cursor": {"User"}, ".config/Windsurf": {"User"},
}

// credentialHomes maps an environment variable to the entry of credentials whose path it
// replaces.
var credentialHomes = map[string]string{"CLAUDE_CONFIG_DIR": ".claude", "CODEX_HOME": ".codex", "CARGO_HOME": ".cargo"}
