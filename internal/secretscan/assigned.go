package secretscan

import (
	"slices"
	"strings"
)

// nameClass is how much a name says about its value.
type nameClass int

const (
	ordinary nameClass = iota
	keyName            // its value is a secret if it looks random
	tokenName
	passwordName
)

// named is a secret-like name.
type named struct {
	class nameClass
	tail  bool // words follow the one that makes it a secret: DB_PASSWORD_PROD
	upper bool // as a variable of the environment: DB_PASSWORD
}

var nameWords = []string{"pass", "pwd", "secret", "token", "key", "cred", "psk", "auth", "pat"}

var (
	passwordWords = []string{"password", "passwort", "passwd", "passphrase", "passcode", "passwrd", "pwd", "pass", "pw"}
	tokenWords    = []string{"token", "tokens", "secret", "secrets", "credential", "credentials", "creds", "psk", "pat", "apikey", "authkey", "accesskey", "secretkey", "privatekey", "authtoken"}
	// keyOwners are words before "key" that make its value a secret.
	keyOwners = []string{
		"api", "access", "auth", "private", "secret", "master", "encryption", "encrypt", "signing", "sign", "openai", "azure", "storage",
		"account", "subscription", "license", "deploy", "admin", "service", "shared", "session", "cookie", "webhook", "client", "consumer",
		"app", "application", "crypt", "cipher", "aes", "hmac", "jwt", "integration", "personal", "user", "account", "server", "project",
	}
	// notSecret are words behind the secret-like one that name something else: its place, its form, a
	// setting about it.
	notSecret = []string{
		"file", "files", "filename", "path", "paths", "dir", "directory", "folder", "url", "uri", "urls", "endpoint", "type", "types", "kind", "name", "names", "id", "ids",
		"length", "len", "min", "max", "size", "count", "limit", "limits", "ttl", "timeout", "expiry", "expires", "expiration", "exp", "lifetime", "age", "duration", "interval",
		"command", "cmd", "program", "helper", "store", "manager", "prompt", "policy", "field", "form", "algorithm", "alg", "header", "prefix", "suffix",
		"env", "var", "variable", "ref", "reference", "scope", "scopes", "format", "regex", "regexp", "pattern", "label", "hint", "placeholder", "class", "style", "color", "auth",
		"authentication", "required", "enabled", "mode", "provider", "cache", "input", "text", "reset", "rotation", "strength", "validator", "validation", "error", "message", "source", "vault",
		"version", "arn", "selector", "binding", "bindings", "mount", "volume", "namespace", "title", "description", "usage", "index", "position", "pos", "offset", "set", "map", "list", "ring",
		"fingerprint", "hash", "digest", "checksum", "sum", "algo", "method", "options", "opts", "config", "generator", "func", "fn", "callback", "handler", "factory", "service", "server", "host",
		"port", "bits", "usage", "count", "budget", "window", "encoding", "issuer", "audience", "owner", "group", "mask", "char", "symbol", "delimiter", "separator", "grant", "request", "response",
	}
	// notSecretBefore are words before the secret-like one with the same effect.
	notSecretBefore = []string{
		"public", "pub", "forgot", "reset", "change", "next", "page", "continuation", "no", "has", "is", "use", "with", "show", "hide", "confirm", "primary", "foreign", "sort", "partition",
		"cache", "hot", "row", "map", "object", "dict", "unique", "registry", "idempotency", "cancellation", "paging", "sync", "parse", "lex", "current", "prev", "last", "host", "max", "min", "num",
		"expected", "keyboard", "shortcut", "csrf", "xsrf", "cursor",
	}
)

// classify returns what a name says about its value.
func classify(name string) named {
	parts := nameParts(name)
	n := named{upper: name == strings.ToUpper(name)}
	at := -1
	for i, p := range parts {
		class := ordinary
		switch {
		case slices.Contains(passwordWords, p), strings.HasSuffix(p, "password"), strings.HasSuffix(p, "passwd"), strings.HasSuffix(p, "passphrase"):
			class = passwordName
		case slices.Contains(tokenWords, p), strings.HasSuffix(p, "token"), strings.HasSuffix(p, "secret"), strings.HasSuffix(p, "apikey"):
			class = tokenName
		case p == "key" && i > 0 && slices.Contains(keyOwners, parts[i-1]):
			class = keyName
			if slices.Contains([]string{"api", "access", "auth", "private", "secret"}, parts[i-1]) {
				class = tokenName
			}
		case p == "key" && i > 0 && n.upper && !slices.Contains(notSecretBefore, parts[i-1]):
			class = keyName
		}
		if class > ordinary {
			n.class, at = max(n.class, class), i
		}
	}
	if at < 0 {
		return named{}
	}
	for _, p := range parts[at+1:] {
		if n.tail = true; slices.Contains(notSecret, p) {
			return named{}
		}
	}
	if at > 0 && slices.Contains(notSecretBefore, parts[at-1]) || len(parts) > 0 && slices.Contains(notSecretBefore, parts[0]) {
		return named{}
	}
	return n
}

// nameParts splits a name into its words, in lower case: at "_", "-" and ".", and at the humps of
// camelCase. Digits at the end of a word are dropped.
func nameParts(name string) []string {
	var out []string
	start := 0
	cut := func(end int) {
		if p := strings.ToLower(strings.TrimRight(name[start:end], "0123456789")); p != "" {
			out = append(out, p)
		}
	}
	for i := range len(name) {
		c := name[i]
		switch {
		case c == '_' || c == '-' || c == '.':
			cut(i)
			start = i + 1
		case isUpper(c) && i > start && (!isUpper(name[i-1]) || i+1 < len(name) && isLower(name[i+1])):
			cut(i)
			start = i
		}
	}
	cut(len(name))
	return out
}

func isUpper(c byte) bool { return c >= 'A' && c <= 'Z' }
func isLower(c byte) bool { return c >= 'a' && c <= 'z' }
func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// assignments finds the secrets of a line that are assigned to secret-like names: NAME=value, "name":
// "value", name: value, name := "value", set -gx NAME value, setenv NAME value, --name value,
// <name>value</name>.
func assignments(line string) []place {
	lower := lowerASCII(line)
	if !slices.ContainsFunc(nameWords, func(w string) bool { return strings.Contains(lower, w) }) {
		return nil
	}
	first, _, _ := strings.Cut(strings.TrimSpace(line), " ")
	a := assigner{line: line, setter: first == "set" || first == "setenv" || first == "setx", comment: isComment(line)}
	var out []place
	for i := 0; i < len(line); {
		if !nameByte(line[i]) {
			i++
			continue
		}
		end := i
		for end < len(line) && nameByte(line[end]) {
			end++
		}
		from := i
		i = end
		if end-from > 100 || !slices.ContainsFunc(nameWords, func(w string) bool { return strings.Contains(lower[from:end], w) }) {
			continue
		}
		n := classify(line[from:end])
		if n.class == ordinary {
			continue
		}
		v, ok := a.value(from, end)
		if !ok {
			continue
		}
		if a.secret(n, v) {
			name := strings.ToLower(strings.TrimLeft(line[from:end], "-."))
			out = append(out, place{v.start, v.end, rankAssigned, "a value called " + clip(name)})
			i = v.end
		}
	}
	return out
}

func clip(s string) string {
	if len(s) > 40 {
		return s[:40]
	}
	return s
}

func isComment(line string) bool {
	t := strings.TrimSpace(line)
	return strings.HasPrefix(t, "#") || strings.HasPrefix(t, "//") || strings.HasPrefix(t, `" `) || strings.HasPrefix(t, ";") || strings.HasPrefix(t, "* ") || strings.HasPrefix(t, "-- ")
}
