package settingsync

import (
	"encoding/json"
	"path"
	"strings"
)

// HostOnly are the settings of a desktop that have no meaning, or a wrong one, in a guest: paths of
// programs, terminals, windows, updates, and settings of the SSH connection itself. "*" matches
// anything.
var HostOnly = []string{
	"remote.*", "window.*", "update.*", "extensions.autoUpdate", "extensions.autoCheckUpdates", "settingsSync.*",
	"telemetry.*", "terminal.external.*", "terminal.integrated.profiles.*", "terminal.integrated.defaultProfile.*",
	"terminal.integrated.automationProfile.*", "terminal.integrated.shell.*", "terminal.integrated.shellArgs.*",
	"terminal.integrated.env.*", "*.executablePath", "*.executable", "*ExecutablePath", "*.pythonPath", "*.interpreterPath",
	"*.defaultInterpreterPath", "*.serverPath", "*.condaPath", "*.venvPath", "*.pipenvPath", "*.poetryPath", "git.path",
	"docker.host", "docker.dockerPath", "docker.environment", "*.jdk.home", "java.home",
	"java.configuration.runtimes", "http.proxyAuthorization", "http.systemCertificates", "workbench.settings.applyToAllProfiles",
}

// hostOnly reports whether a setting belongs to the host, from its key and value (canonical JSON).
func hostOnly(key, plain, home string) bool {
	for _, p := range HostOnly {
		if matches(p, key) {
			return true
		}
	}
	value := strings.Trim(plain, `"`)
	if !strings.HasPrefix(plain, `"`) {
		return false
	}
	if strings.HasPrefix(key, "http.proxy") && (value == "" || loopback(value)) {
		return true
	}
	if home != "" && (value == home || strings.HasPrefix(value, home+"/")) {
		return true
	}
	// "python.analysis.foo.path": "/usr/bin/x", "go.goroot": "/opt/go"
	last := strings.ToLower(key[strings.LastIndexByte(key, '.')+1:])
	for _, end := range []string{"path", "executable", "interpreter", "binary", "command", "root", "home", "dir", "directory", "folder", "program"} {
		if strings.HasSuffix(last, end) && (path.IsAbs(value) || strings.HasPrefix(value, "~") || len(value) > 2 && value[1] == ':' && (value[2] == '\\' || value[2] == '/')) {
			return true
		}
	}
	return false
}

func loopback(url string) bool {
	_, host, ok := strings.Cut(url, "://")
	if !ok {
		host = url
	}
	host = host[strings.LastIndexByte(host, '@')+1:]
	return strings.HasPrefix(host, "127.") || strings.HasPrefix(host, "localhost") || strings.HasPrefix(host, "[::1]") || strings.HasPrefix(host, "0.0.0.0")
}

// matches compares a key with a pattern in which "*" matches anything, ignoring case.
func matches(pattern, key string) bool {
	pattern, key = strings.ToLower(pattern), strings.ToLower(key)
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == key
	}
	if !strings.HasPrefix(key, parts[0]) {
		return false
	}
	key = key[len(parts[0]):]
	for _, p := range parts[1 : len(parts)-1] {
		i := strings.Index(key, p)
		if i < 0 {
			return false
		}
		key = key[i+len(p):]
	}
	return strings.HasSuffix(key, parts[len(parts)-1])
}

// StringSetting returns the value of a key in a settings file if it is a string.
func StringSetting(text, key string) (string, bool) {
	n, err := parseObject(text)
	if err != nil {
		return "", false
	}
	m := n.find(key)
	if m == nil || m.val.kind != '"' {
		return "", false
	}
	var s string
	err = json.Unmarshal([]byte(text[m.val.start:m.val.end]), &s)
	return s, err == nil
}

// SettingsRules select the keys of settings.json that are sent to the guest.
type SettingsRules struct {
	Exclude, Include []string // patterns; Exclude wins over Include, both over HostOnly
	Home             string
	AllowSecret      bool
}

// Filtered is a settings file with only what may be sent.
type Filtered struct {
	Text    string
	Plain   string   // Text as canonical JSON: the base of the next merge
	LeftOut []string // keys omitted because they belong to the host
	Found   []Secret // keys omitted because they contain a secret
}

// FilterSettings removes the keys that belong to the host or contain secrets. It keeps comments,
// unless one of them contains a secret.
func FilterSettings(text string, r SettingsRules) (Filtered, error) {
	text = strings.TrimPrefix(text, bom)
	n, err := parseObject(text)
	if err != nil {
		return Filtered{}, err
	}
	var f Filtered
	drop := map[string]bool{}
	matchesAny := func(patterns []string, key string) bool {
		for _, p := range patterns {
			if matches(p, key) {
				return true
			}
		}
		return false
	}
	for _, m := range n.members {
		switch {
		case drop[m.key]:
		case matchesAny(r.Exclude, m.key),
			!matchesAny(r.Include, m.key) && hostOnly(m.key, m.val.plain(text), r.Home):
			drop[m.key] = true
			f.LeftOut = append(f.LeftOut, m.key)
		case !r.AllowSecret:
			line := 1 + strings.Count(text[:m.keyStart], "\n")
			if found := Scan(text[m.keyStart:m.val.end]); len(found) > 0 {
				drop[m.key] = true
				for _, s := range found {
					f.Found = append(f.Found, Secret{Line: line + s.Line - 1, Kind: s.Kind})
				}
			}
		}
	}
	f.Text = applyEdits(text, removals(text, n, func(m member) bool { return drop[m.key] }))
	rest, err := parseObject(f.Text)
	if err != nil {
		return Filtered{}, err
	}
	if rest.start == rest.end {
		f.Text, f.Plain = "", "{}"
		return f, nil
	}
	f.Plain = rest.plain(f.Text)
	if !r.AllowSecret && len(Scan(f.Text)) > 0 {
		f.Text = f.Plain + "\n" // the remaining secret is in a comment
	}
	return f, nil
}
