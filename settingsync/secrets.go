package settingsync

import (
	"math"
	"strings"

	"aivm.dev/aivm/internal/lazyre"
)

// Secret is a line that contains a secret. The secret itself is never printed.
type Secret struct {
	Line int
	Kind string // "a GitHub token"
}

// shapes are tokens that are recognised by their format.
var shapes = []struct {
	kind, hint string // hint: a text that every such line contains
	re         *lazyre.Regexp
}{
	{"a private key", "PRIVATE KEY", lazyre.New(`-----BEGIN [A-Z0-9 ]*PRIVATE KEY( BLOCK)?-----`)},
	{"a PuTTY private key", "PuTTY-User-Key-File", lazyre.New(`^PuTTY-User-Key-File-\d:`)},
	{"an age secret key", "AGE-", lazyre.New(`AGE-(SECRET-KEY|PLUGIN-[A-Z0-9]+)-1[0-9A-Z]{20,}`)},
	{"an AWS access key", "A", lazyre.New(`\b(AKIA|ASIA|AROA|AIDA)[A-Z0-9]{16}\b`)},
	{"a GitHub token", "gh", lazyre.New(`\bgh[pousr]_[A-Za-z0-9]{30,}`)},
	{"a GitHub token", "github_pat_", lazyre.New(`\bgithub_pat_[A-Za-z0-9_]{22,}`)},
	{"a GitLab token", "gl", lazyre.New(`\b(glpat|gldt|glrt|glptt|glsoat|glcbt|glft|glagent|gloas)-[A-Za-z0-9_=.-]{20,}`)},
	{"a Slack token", "xox", lazyre.New(`\bxox[abeoprs]-[A-Za-z0-9-]{10,}`)},
	{"a Slack token", "xapp-", lazyre.New(`\bxapp-\d-[A-Za-z0-9-]{10,}`)},
	{"a Slack webhook", "hooks.slack.com", lazyre.New(`hooks\.slack\.com/(services|workflows)/[A-Za-z0-9/]{20,}`)},
	{"a Discord webhook", "/api/webhooks/", lazyre.New(`discord(app)?\.com/api/webhooks/\d+/[A-Za-z0-9_-]{20,}`)},
	{"a Google API key", "AIza", lazyre.New(`\bAIza[A-Za-z0-9_-]{35}`)},
	{"a Google OAuth secret", "GOCSPX-", lazyre.New(`\bGOCSPX-[A-Za-z0-9_-]{20,}`)},
	{"a Google OAuth token", "ya29.", lazyre.New(`\bya29\.[A-Za-z0-9_-]{20,}`)},
	{"an Anthropic key", "sk-ant-", lazyre.New(`\bsk-ant-[A-Za-z0-9_-]{20,}`)},
	{"an API key", "sk-", lazyre.New(`\bsk-(proj-|or-v1-|svcacct-|admin-|lf-)?[A-Za-z0-9_-]{20,}`)},
	{"a Groq key", "gsk_", lazyre.New(`\bgsk_[A-Za-z0-9]{20,}`)},
	{"an xAI key", "xai-", lazyre.New(`\bxai-[A-Za-z0-9]{20,}`)},
	{"a Perplexity key", "pplx-", lazyre.New(`\bpplx-[A-Za-z0-9]{20,}`)},
	{"a Replicate token", "r8_", lazyre.New(`\br8_[A-Za-z0-9]{30,}`)},
	{"a Hugging Face token", "hf_", lazyre.New(`\b(api_org|hf)_[A-Za-z]{30,}`)},
	{"an npm token", "npm_", lazyre.New(`\bnpm_[A-Za-z0-9]{36}`)},
	{"a PyPI token", "pypi-", lazyre.New(`\bpypi-[A-Za-z0-9_-]{30,}`)},
	{"a RubyGems key", "rubygems_", lazyre.New(`\brubygems_[a-f0-9]{40,}`)},
	{"a crates.io token", "cio", lazyre.New(`\bcio[A-Za-z0-9]{32}\b`)},
	{"a Stripe key", "_", lazyre.New(`\b(sk|rk)_(live|test)_[A-Za-z0-9]{16,}`)},
	{"a Stripe webhook secret", "whsec_", lazyre.New(`\bwhsec_[A-Za-z0-9+/=]{20,}`)},
	{"a SendGrid key", "SG.", lazyre.New(`\bSG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}`)},
	{"a Mailgun key", "key-", lazyre.New(`\bkey-[a-f0-9]{32}\b`)},
	{"a Mailchimp key", "-us", lazyre.New(`\b[a-f0-9]{32}-us\d{1,2}\b`)},
	{"a Twilio key", "SK", lazyre.New(`\bSK[a-f0-9]{32}\b`)},
	{"a DigitalOcean token", "do", lazyre.New(`\bdo[opr]_v1_[a-f0-9]{40,}`)},
	{"a Docker token", "dckr_", lazyre.New(`\bdckr_(pat|oat)_[A-Za-z0-9_-]{20,}`)},
	{"a Databricks token", "dapi", lazyre.New(`\bdapi[a-f0-9]{32}`)},
	{"a Vault token", "hv", lazyre.New(`\bhv[sbr]\.[A-Za-z0-9_-]{20,}`)},
	{"a Terraform token", ".atlasv1.", lazyre.New(`[A-Za-z0-9]{10,}\.atlasv1\.[A-Za-z0-9_=-]{40,}`)},
	{"a Doppler token", "dp.", lazyre.New(`\bdp\.(pt|st|ct|sa|scim|audit)\.[A-Za-z0-9._-]{30,}`)},
	{"a Linear key", "lin_", lazyre.New(`\blin_(api|oauth)_[A-Za-z0-9]{30,}`)},
	{"a Notion token", "ntn_", lazyre.New(`\bntn_[A-Za-z0-9]{30,}`)},
	{"a Figma token", "fig", lazyre.New(`\bfig[dou]r?_[A-Za-z0-9_-]{30,}`)},
	{"a Grafana token", "gl", lazyre.New(`\bgl(sa|c)_[A-Za-z0-9+/=_]{30,}`)},
	{"a New Relic key", "NR", lazyre.New(`\bNR(AK|JS|II|AA|BR)-[A-Za-z0-9-]{20,}`)},
	{"a Sentry token", "sntry", lazyre.New(`\bsntry[su]_[A-Za-z0-9+/=_]{30,}`)},
	{"a Postman key", "PMAK-", lazyre.New(`\bPMAK-[a-f0-9-]{30,}`)},
	{"a Shopify token", "shp", lazyre.New(`\bshp(at|ca|pa|ss)_[a-fA-F0-9]{32}`)},
	{"a Square token", "sq0", lazyre.New(`\bsq0[a-z]{3}-[A-Za-z0-9_-]{20,}`)},
	{"an Atlassian token", "ATATT3", lazyre.New(`\bATATT3[A-Za-z0-9_=-]{30,}`)},
	{"a Tailscale key", "tskey-", lazyre.New(`\btskey-[a-z]+-[A-Za-z0-9-]{10,}`)},
	{"a Netlify token", "nf", lazyre.New(`\bnf[pcoubr]_[A-Za-z0-9]{30,}`)},
	{"a Fly.io token", "fm2_", lazyre.New(`\bfm2_[A-Za-z0-9+/=,]{30,}`)},
	{"a PlanetScale password", "pscale_", lazyre.New(`\bpscale_(pw|tkn|oauth)_[A-Za-z0-9_.-]{30,}`)},
	{"a 1Password token", "ops_", lazyre.New(`\bops_eyJ[A-Za-z0-9_-]{40,}`)},
	{"a JSON web token", "eyJ", lazyre.New(`\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}`)},
	{"a Telegram bot token", ":AA", lazyre.New(`\b\d{8,10}:AA[A-Za-z0-9_-]{32,}`)},
	{"an Azure storage key", "AccountKey=", lazyre.New(`AccountKey=[A-Za-z0-9+/]{40,}={0,2}`)},
	{"a shared access signature", "sig=", lazyre.New(`[?&]sig=[A-Za-z0-9%+/]{30,}`)},
	{"a registry's credentials", `"auth"`, lazyre.New(`"auth"\s*:\s*"[A-Za-z0-9+/]{8,}={0,2}"`)},
	{"a registry's credentials", "_auth", lazyre.New(`(^|:)_(auth|authToken|password)\s*=\s*[^\s$]{6,}`)},
	{"a client's key", "client-key-data", lazyre.New(`client-key-data:\s*[A-Za-z0-9+/=]{20,}`)},
	{"a WireGuard key", "Key", lazyre.New(`(?i)^\s*(PrivateKey|PresharedKey)\s*=\s*[A-Za-z0-9+/]{42}[A-Za-z0-9+/=]{2}`)},
	{"a password in a netrc", "password", lazyre.New(`(?i)\b(machine|login|default)\b.*\bpassword\s+\S+`)},
	{"an authorization header", "uthorization", lazyre.New(`(?i)authorization["']?\s*[:=]\s*["']?(bearer|basic|token)\s+[A-Za-z0-9+/=._~-]{12,}`)},
	{"an API key in a header", "-", lazyre.New(`(?i)\b(x-api-key|x-auth-token|private-token)["']?\s*:\s*["']?[A-Za-z0-9._-]{12,}`)},
	{"a password on a command line", "sshpass", lazyre.New(`\bsshpass\s+-p\s*[^\s$-]\S*`)},
	{"a password on a command line", "my", lazyre.New(`\bmy(sql|sqldump|sqladmin)\b.*\s(-p[^\s$]{4,}|--password=[^\s$]{4,})`)},
	{"a password on a command line", "-u", lazyre.New(`\b(curl|wget|http|xh)\b.*\s(-u|--user)[\s=]*["']?[^\s:"'$]+:[^\s"'$@]{4,}`)},
}

var (
	urlPassword = lazyre.New(`\b[a-z][a-z0-9+.-]*://[^\s/:@"'$<>{}]*:([^\s/@"'$<>{}]{3,})@[^\s"']+`)
	// assigned matches NAME=value, "name": "value", name: value, set -gx NAME value, setenv NAME
	// value.
	assigned = lazyre.New(`(?i)(?:^|[\s"'{,;(.])(?:export\s+|set(?:env)?\s+(?:-\w+\s+)*)?["']?([a-z0-9_.-]*(?:passwo?r?d|passphrase|passwd|secret|token|api_?-?key|access_?-?key|auth_?-?key|private_?-?key|credentials?|(?:^|_)pwd|(?:^|_)pass))["']?(?:\s*(?::=|=>|=|:)\s*|\s+)(.+)$`)
	wordy    = lazyre.New(`^[a-z]+([-_ .][a-z]+)*$`)
)

// maxScan bounds the bytes searched per file; a larger file is not a dotfile.
const maxScan = 4 << 20

// Scan returns the lines that contain a private key, a token of a well-known service or a password,
// each line once.
func Scan(text string) []Secret {
	var out []Secret
	if len(text) > maxScan {
		text = text[:maxScan]
	}
	n, netrc := 0, false
	for line := range strings.SplitSeq(text, "\n") {
		n++
		line = strings.TrimSuffix(line, "\r")
		if kind := scanLine(line); kind != "" {
			out = append(out, Secret{n, kind})
			continue
		}
		// A netrc entry over several lines.
		f := strings.Fields(line)
		if len(f) >= 2 && (f[0] == "machine" || f[0] == "login") {
			netrc = true
		} else if netrc && len(f) == 2 && f[0] == "password" {
			out = append(out, Secret{n, "a password in a netrc"})
		}
	}
	return out
}

func scanLine(line string) string {
	if len(line) < 8 {
		return ""
	}
	if len(line) > 16<<10 {
		line = line[:16<<10]
	}
	for _, s := range shapes {
		if !strings.Contains(line, s.hint) {
			continue
		}
		if m := s.re.FindStringSubmatch(line); m != nil && !example(m[0]) {
			return s.kind
		}
	}
	if strings.Contains(line, "://") {
		if m := urlPassword.FindStringSubmatch(line); m != nil && !placeholder(m[1]) {
			return "a password in an address"
		}
	}
	if m := assignment(line); m != nil && looksSecret(m[1], line, m[2]) {
		return "a value called " + clip(strings.ToLower(m[1]))
	}
	return ""
}

// assignment looks for a value assigned to a secret-like name. It first checks cheaply, since the
// expression costs more than all others together.
func assignment(line string) []string {
	lower := strings.ToLower(line)
	for _, w := range []string{"pass", "pwd", "secret", "token", "key", "credential"} {
		if strings.Contains(lower, w) {
			return assigned.FindStringSubmatch(line)
		}
	}
	return nil
}

func clip(s string) string {
	if len(s) > 40 {
		return s[:40]
	}
	return s
}

// example reports whether a token is one from documentation, which repeats one letter.
func example(s string) bool {
	seen := map[rune]bool{}
	for _, r := range s {
		seen[r] = true
	}
	lower := strings.ToLower(s)
	return len(seen) < 8 || strings.Contains(lower, "xxxx") || strings.Contains(lower, "example") && !strings.ContainsAny(s, " /")
}

func placeholder(v string) bool {
	lower := strings.ToLower(v)
	for _, w := range []string{"xxx", "***", "...", "password", "passwd", "changeme", "placeholder", "your", "secret", "example", "pass", "token", "redacted", "dummy"} {
		if lower == w || strings.HasPrefix(lower, "your") || strings.Trim(lower, "*x.") == "" {
			return true
		}
	}
	return strings.HasPrefix(v, "<") || strings.HasPrefix(v, "%") && strings.HasSuffix(v, "%") || strings.HasPrefix(v, "{{")
}

// looksSecret reports whether a value assigned to a secret-like name is a secret, and not a
// variable, a command, a path, a file name, a placeholder or a word of prose.
func looksSecret(name, line, rest string) bool {
	trimmed := strings.TrimSpace(line)
	value := strings.TrimSpace(rest)
	quoted := false
	for _, q := range []byte{'"', '\''} {
		if len(value) > 1 && value[0] == q {
			if end := strings.IndexByte(value[1:], q); end >= 0 {
				value, quoted = value[1:end+1], true
				break
			}
		}
	}
	if !quoted {
		for _, cut := range []string{" #", " //", ";", ",", " &&", " ||", ")", "}"} {
			value, _, _ = strings.Cut(value, cut)
		}
		value = strings.TrimSpace(value)
		if strings.ContainsAny(value, " \t(") {
			return false // prose, a command with arguments, a call
		}
	}
	comment := strings.HasPrefix(trimmed, "#") || strings.HasPrefix(trimmed, "//") || strings.HasPrefix(trimmed, `" `) || strings.HasPrefix(trimmed, ";")
	separated := strings.ContainsAny(line[strings.Index(line, name)+len(name):], "=:")
	if !separated && !strings.HasPrefix(trimmed, "set") {
		return false
	}
	lower := strings.ToLower(value)
	switch {
	case len(value) < 6, strings.ContainsAny(value, "$`<>*|"), strings.HasPrefix(value, "%("), placeholder(value),
		strings.HasPrefix(value, "/"), strings.HasPrefix(value, "~"), strings.HasPrefix(value, "./"), strings.HasPrefix(value, "-"), strings.HasPrefix(value, "("),
		strings.HasPrefix(value, "["), strings.HasPrefix(value, "{"), strings.HasPrefix(value, "!"), strings.HasPrefix(value, "http"),
		strings.Contains(value, "://"), strings.Contains(value, "()"), strings.HasPrefix(lower, "op://"):
		return false
	case lower == "true" || lower == "false" || lower == "none" || lower == "prompt" || lower == "nil" || lower == "null":
		return false
	case strings.HasSuffix(lower, ".txt") || strings.HasSuffix(lower, ".gpg") || strings.HasSuffix(lower, ".json") || strings.HasSuffix(lower, ".sh"):
		return false
	case wordy.MatchString(value) && (!quoted || comment || strings.ContainsAny(value, "-_ .")):
		return false // "secret-tool", "cache", "keyring"
	case wordy.MatchString(value) && entropy(value) < 3 && len(value) < 10:
		return !comment && strings.Contains(strings.ToLower(name), "pass")
	case quoted && strings.Contains(value, " "):
		return strings.Contains(strings.ToLower(name), "pass") && !comment && entropy(value) > 3
	case comment:
		return entropy(value) > 3.2 && strings.ContainsAny(value, "0123456789")
	}
	return true
}

// entropy is Shannon's entropy in bits per character.
func entropy(s string) float64 {
	count := map[rune]float64{}
	n := 0.0
	for _, r := range s {
		count[r]++
		n++
	}
	h := 0.0
	for _, c := range count {
		h -= c / n * math.Log2(c/n)
	}
	return h
}
