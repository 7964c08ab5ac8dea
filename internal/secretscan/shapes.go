package secretscan

import (
	"strings"

	"aivm.dev/aivm/internal/lazyre"
)

// shapes are secrets with a format of their own that gitleaks does not know, or recognizes only in
// some of their forms. keywords: each place has one of these texts, in lower case.
var shapes = []struct{ kind, keywords, expr string }{
	{"a private key", "private key", `-----(?:BEGIN|begin)(?i:[ A-Z0-9_-]{0,100}PRIVATE KEY( BLOCK)?)-----`},
	{"a PuTTY private key", "putty-user-key-file", `(?m)^PuTTY-User-Key-File-\d:`},
	{"an age secret key", "age-", `AGE-(SECRET-KEY(-[A-Z]+)?|PLUGIN-[A-Z0-9]+)-1[0-9A-Z]{20,}`},
	{"an AWS access key", "akia asia aroa aida", `\b(AKIA|ASIA|AROA|AIDA)[A-Z0-9]{16}\b`},
	{"a GitHub token", "ghp_ gho_ ghu_ ghs_ ghr_", `\bgh[pousr]_[A-Za-z0-9]{30,}`},
	{"a GitHub token", "github_pat_", `\bgithub_pat_[A-Za-z0-9_]{22,}`},
	{"a GitLab token", "glpat- gldt- glrt- glrtr- glptt- glsoat- glcbt- glft- glagent- gloas- glimt- glffct-", `\b(glpat|gldt|glrtr?|glptt|glsoat|glcbt|glft|glagent|gloas|glimt|glffct)-[A-Za-z0-9_=.-]{20,}`},
	{"a Slack token", "xox", `\bxox[abcdeoprs]-[A-Za-z0-9%-]{10,}`},
	{"a Slack token", "xapp-", `\bxapp-\d-[A-Za-z0-9-]{10,}`},
	{"a Slack webhook", "hooks.slack.com", `hooks\.slack\.com/(services|workflows|triggers)/[A-Za-z0-9/]{20,}`},
	{"a Discord webhook", "/api/webhooks/", `discord(app)?\.com/api/webhooks/\d+/[A-Za-z0-9_-]{20,}`},
	{"a Google API key", "aiza", `\bAIza[A-Za-z0-9_-]{35}`},
	{"a Google OAuth secret", "gocspx-", `\bGOCSPX-[A-Za-z0-9_-]{20,}`},
	{"a Google OAuth token", "ya29.", `\bya29\.[A-Za-z0-9_-]{20,}`},
	{"a Google OAuth token", "1//0", `\b1//0[A-Za-z0-9_-]{40,}`},
	{"an Anthropic key", "sk-ant-", `\bsk-ant-[A-Za-z0-9_-]{20,}`},
	{"an API key", "sk-proj- sk-or-v1- sk-svcacct- sk-admin- sk-lf-", `\bsk-(proj|or-v1|svcacct|admin|lf)-[A-Za-z0-9_-]{20,}`},
	{"an API key", "sk-", `\bsk-[A-Za-z0-9]{20,}\b`},
	{"a Groq key", "gsk_", `\bgsk_[A-Za-z0-9]{20,}`},
	{"an xAI key", "xai-", `\bxai-[A-Za-z0-9]{20,}`},
	{"a Cerebras key", "csk-", `\bcsk-[a-z0-9]{40,}`},
	{"a Perplexity key", "pplx-", `\bpplx-[A-Za-z0-9]{20,}`},
	{"an NVIDIA key", "nvapi-", `\bnvapi-[A-Za-z0-9_-]{40,}`},
	{"a LangSmith key", "lsv2_", `\blsv2_(pt|sk)_[a-f0-9]{32}_[a-f0-9]{10}`},
	{"a Pinecone key", "pcsk_", `\bpcsk_[A-Za-z0-9_]{30,}`},
	{"a Tavily key", "tvly-", `\btvly-[A-Za-z0-9-]{20,}`},
	{"a Firecrawl key", "fc-", `\bfc-[a-f0-9]{32}\b`},
	{"a Jina key", "jina_", `\bjina_[A-Za-z0-9_-]{40,}`},
	{"an E2B key", "e2b_", `\be2b_[a-f0-9]{40}\b`},
	{"a Context7 key", "ctx7sk-", `\bctx7sk-[a-f0-9-]{36}`},
	{"an ElevenLabs key", "sk_", `\bsk_[a-f0-9]{48}\b`},
	{"a Supabase token", "sbp_ sb_secret_", `\b(sbp_[a-f0-9]{40}|sb_secret_[A-Za-z0-9_-]{20,})`},
	{"a Neon key", "napi_", `\bnapi_[a-z0-9]{40,}`},
	{"a Resend key", "re_", `\bre_[A-Za-z0-9]{8}_[A-Za-z0-9]{20,}`},
	{"a PostHog key", "phx_", `\bphx_[A-Za-z0-9]{40,}`},
	{"a Render key", "rnd_", `\brnd_[A-Za-z0-9]{28,}`},
	{"a Replicate token", "r8_", `\br8_[A-Za-z0-9]{30,}`},
	{"a Hugging Face token", "hf_ api_org_", `\b(api_org|hf)_[A-Za-z]{30,}`},
	{"an npm token", "npm_", `\bnpm_[A-Za-z0-9]{36}`},
	{"a PyPI token", "pypi-", `\bpypi-[A-Za-z0-9_-]{30,}`},
	{"a RubyGems key", "rubygems_", `\brubygems_[a-f0-9]{40,}`},
	{"a crates.io token", "cio", `\bcio[A-Za-z0-9]{32}\b`},
	{"a Stripe key", "sk_live_ sk_test_ rk_live_ rk_test_", `\b(sk|rk)_(live|test)_[A-Za-z0-9]{16,}`},
	{"a Stripe webhook secret", "whsec_", `\bwhsec_[A-Za-z0-9+/=]{20,}`},
	{"a SendGrid key", "sg.", `\bSG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}`},
	{"a Mailgun key", "key-", `\bkey-[a-f0-9]{32}\b`},
	{"a Mailchimp key", "-us", `\b[a-f0-9]{32}-us\d{1,2}\b`},
	{"a Twilio key", "sk", `\bSK[a-f0-9]{32}\b`},
	{"a DigitalOcean token", "dop_v1_ doo_v1_ dor_v1_", `\bdo[opr]_v1_[a-f0-9]{40,}`},
	{"a Docker token", "dckr_", `\bdckr_(pat|oat)_[A-Za-z0-9_-]{20,}`},
	{"a Databricks token", "dapi", `\bdapi[a-f0-9]{32}`},
	{"a Vault token", "hvs. hvb. hvr.", `\bhv[sbr]\.[A-Za-z0-9_-]{20,}`},
	{"a Terraform token", ".atlasv1.", `[A-Za-z0-9]{10,}\.atlasv1\.[A-Za-z0-9_=-]{40,}`},
	{"a Doppler token", "dp.", `\bdp\.(pt|st|ct|sa|scim|audit)\.[A-Za-z0-9._-]{30,}`},
	{"a Linear key", "lin_", `\blin_(api|oauth)_[A-Za-z0-9]{30,}`},
	{"a Notion token", "ntn_", `\bntn_[A-Za-z0-9]{30,}`},
	{"a Figma token", "fig", `\bfig[dou]r?_[A-Za-z0-9_-]{30,}`},
	{"a Grafana token", "glsa_ glc_", `\bgl(sa|c)_[A-Za-z0-9+/=_]{30,}`},
	{"a New Relic key", "nrak- nrjs- nrii- nraa- nrbr-", `\bNR(AK|JS|II|AA|BR)-[A-Za-z0-9-]{20,}`},
	{"a Sentry token", "sntrys_ sntryu_", `\bsntry[su]_[A-Za-z0-9+/=_]{30,}`},
	{"a Postman key", "pmak-", `\bPMAK-[a-f0-9-]{30,}`},
	{"a Shopify token", "shpat_ shpca_ shppa_ shpss_", `\bshp(at|ca|pa|ss)_[a-fA-F0-9]{32}`},
	{"a Square token", "sq0", `\bsq0[a-z]{3}-[A-Za-z0-9_-]{20,}`},
	{"an Atlassian token", "atatt3 atctt3", `\bAT[AC]TT3[A-Za-z0-9_=-]{30,}`},
	{"a Bitbucket password", "atbb", `\bATBB[A-Za-z0-9]{32}\b|\bATBB[A-Za-z0-9]{24}[A-F0-9]{8}\b`},
	{"an Artifactory key", "akcp", `\bAKCp[A-Za-z0-9]{30,}`},
	{"an Artifactory token", "cmvmdgtu", `\bcmVmdGtu[A-Za-z0-9]{40,}`},
	{"an Azure secret", "q~", `(^|[^A-Za-z0-9_~.-])[A-Za-z0-9_~.-]{3}\dQ~[A-Za-z0-9_~.-]{31,34}([^A-Za-z0-9_~.-]|$)`},
	{"a Tailscale key", "tskey-", `\btskey-[a-z]+-[A-Za-z0-9-]{10,}`},
	{"a Netlify token", "nfp_ nfc_ nfo_ nfu_ nfb_ nfr_", `\bnf[pcoubr]_[A-Za-z0-9]{30,}`},
	{"a Fly.io token", "fm2_", `\bfm2_[A-Za-z0-9+/=,]{30,}`},
	{"a PlanetScale password", "pscale_", `\bpscale_(pw|tkn|oauth)_[A-Za-z0-9_.-]{30,}`},
	{"a 1Password token", "ops_", `\bops_eyJ[A-Za-z0-9_-]{40,}`},
	{"a JSON web token", "eyj", `\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}`},
	{"a Telegram bot token", ":aa", `\b\d{8,10}:AA[A-Za-z0-9_-]{32,}`},
	{"an Azure storage key", "accountkey=", `AccountKey=[A-Za-z0-9+/]{40,}={0,2}`},
	{"a shared access signature", "sig=", `[?&]sig=[A-Za-z0-9%+/]{30,}`},
	{"a registry's credentials", `"auth"`, `"auth"\s*:\s*"[A-Za-z0-9+/]{8,}={0,2}"`},
	{"a registry's credentials", "_auth _password", `(?m)(^|:)_(auth|authToken|password)\s*=\s*[^\s$]{6,}`},
	{"a client's key", "client-key-data", `client-key-data:\s*[A-Za-z0-9+/=]{20,}`},
	{"a WireGuard key", "privatekey presharedkey", `(?im)^\s*(PrivateKey|PresharedKey)\s*=\s*[A-Za-z0-9+/]{42}[A-Za-z0-9+/=]{2}`},
	{"a password in a netrc", "password", `(?m)^[ \t]*(machine\s+\S+|default|login\s+\S+)(\s+(login|account|port)\s+\S+)*\s+password\s+\S+`},
	{"an authorization header", "uthorization", `(?i)authorization["']?\s*[:=]\s*["']?(bearer|basic|token)\s+[A-Za-z0-9+/=._~-]{12,}`},
	{"an API key in a header", "x-api-key x-auth-token private-token", `(?i)\b(x-api-key|x-auth-token|private-token)["']?\s*:\s*["']?[A-Za-z0-9._-]{12,}`},
	{"a password on a command line", "sshpass", `\bsshpass\s+-p\s*[^\s$-]\S*`},
	{"a password on a command line", "mysql mariadb", `\b(mysql|mariadb)(-?dump|-?admin)?\b[^\n]*\s(-p[^\s$]{4,}|--password=[^\s$]{4,})`},
	{"a password on a command line", "curl wget http xh", `\b(curl|wget|https?|xh)\b[^\n]*\s(-[A-Za-z]*[uU]|--user|--proxy-user)[\s=]*["']?[^\s:"'$]+:[^\s"'$@]{4,}`},
	{"a password hash", "$2a$ $2b$ $2y$ $6$ $y$ $apr1$ $argon2", `\$2[aby]\$\d\d\$[./A-Za-z0-9]{53}|\$6\$(rounds=\d+\$)?[./A-Za-z0-9]{1,16}\$[./A-Za-z0-9]{86}|\$y\$[./A-Za-z0-9]+\$[./A-Za-z0-9]{1,86}\$[./A-Za-z0-9]{43}|\$apr1\$[./A-Za-z0-9]{1,8}\$[./A-Za-z0-9]{22}|\$argon2id?\$[A-Za-z0-9$=,+/]{40,}`},
}

func shapeRules() []*rule {
	out := make([]*rule, len(shapes))
	for i, s := range shapes {
		out[i] = &rule{
			kind: s.kind, rank: rankShape, keywords: strings.Fields(s.keywords), re: lazyre.New(s.expr), group: -1,
			secret: func(match string) bool { return !example(match) },
			cost:   4 + 4*strings.Count(s.expr, "{"),
		}
	}
	return out
}

// example reports whether a match is one from documentation, which repeats a letter or says so.
func example(s string) bool {
	seen := map[rune]bool{}
	for _, r := range s {
		seen[r] = true
	}
	lower := strings.ToLower(s)
	return len(seen) < 8 || strings.Contains(lower, "xxxx") || strings.Contains(lower, "example") && !strings.ContainsAny(s, " /")
}
