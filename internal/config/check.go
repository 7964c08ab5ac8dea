package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"aivm.dev/aivm/internal/lazyre"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
)

const maxName = 63 // a DNS label: VM names become host names and ssh aliases

var (
	strictName = lazyre.New(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)
	// Names that 0.3 may have stored and that are still safe in XML, ssh and paths.
	storedName = lazyre.New(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)
	// IFNAMSIZ is 16 with the final NUL (linux/if.h).
	bridgeName  = lazyre.New(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}$`)
	nftName     = lazyre.New(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)
	userName    = lazyre.New(`^[a-z_][a-z0-9_-]{0,31}$`)                               // useradd(8)
	packageName = lazyre.New(`^[a-z0-9]([a-z0-9+.:~=/_-]*([a-z0-9~]|\+\+))?$`)         // deb-control(5), with :arch, =version and /release
	hexDigest   = lazyre.New(`^([0-9a-fA-F]{64})?$`)                                   // SHA-256, or none
	hexDigest2  = lazyre.New(`^([0-9a-fA-F]{128})?$`)                                  // SHA-512, or none
	extensionID = lazyre.New(`^[a-zA-Z0-9][a-zA-Z0-9-]*\.[a-zA-Z0-9][a-zA-Z0-9._-]*$`) // publisher.name
	shareTag    = lazyre.New(`^[A-Za-z0-9_.-]*$`)                                      // one path component, and a virtiofs tag
	portOrRange = lazyre.New(`^([0-9]{1,5})(-([0-9]{1,5}))?$`)
	notInName   = lazyre.New(`[^a-z0-9]+`)
)

// ValidateVMName checks the name of a VM to be created: it becomes the name of a libvirt domain, a
// host name and an ssh alias. The error states the rule and suggests a valid name.
func ValidateVMName(name string) error {
	if strictName.MatchString(name) && len(name) <= maxName {
		return nil
	}
	return ui.Usage("VM name %q is not allowed: use 1 to %d of a-z, 0-9 and '-', with no '-' at either end", name, maxName).
		Hint(ui.Cmd("aivm vm create " + suggestName(name)))
}

func suggestName(name string) string {
	s := notInName.ReplaceAllString(strings.ToLower(name), "-")
	s = strings.Trim(s, "-")
	s = strings.TrimRight(s[:min(len(s), maxName)], "-")
	if s == "" {
		return "aivm"
	}
	return s
}

// checks maps the values of check tags to rules. A rule returns what is wrong, worded to follow the
// key in a message ("must be ..."), or "".
var checks = map[string]func(string) string{
	"plain":        checkPlain,
	"templatename": checkTemplateName,
	"workspace":    checkWorkspace,
	"vmname": func(s string) string {
		if s == "" || storedName.MatchString(s) && len(s) <= maxName {
			return ""
		}
		return fmt.Sprintf("must be a VM name (1 to %d of a-z, 0-9 and '-'), not %q; for example %q", maxName, s, suggestName(s))
	},
	"name": func(s string) string {
		if s == "" || storedName.MatchString(s) && len(s) <= maxName {
			return ""
		}
		return fmt.Sprintf("must be a name (1 to %d letters, digits, '_', '.', '-'), not %q", maxName, s)
	},
	"bridge": func(s string) string {
		if s == "" || bridgeName.MatchString(s) {
			return ""
		}
		return fmt.Sprintf("must be an interface name (1 to 15 letters, digits, '_', '.', '-'), not %q", s)
	},
	"nftname": matches(nftName, "a table name (letters, digits and '_')"),
	"user":    matches(userName, "a user name (1 to 32 of a-z, 0-9, '_', '-', starting with a letter)"),
	"package": matches(packageName, "a package name"),
	"sha256":  matches(hexDigest, "64 hexadecimal digits"),
	"extension": func(s string) string {
		if s == "none" || s == "workspace" || extensionID.MatchString(s) {
			return ""
		}
		return fmt.Sprintf("must be none, workspace, or ids of extensions such as golang.go, not %q", s)
	},
	"libvirt": func(s string) string {
		if _, err := virt.ParseURI(s); err != nil && s != "" {
			return err.Error()
		}
		return ""
	},
	"sha512": matches(hexDigest2, "128 hexadecimal digits"),
	"https": func(s string) string {
		if u, err := url.Parse(s); err != nil || u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
			return fmt.Sprintf("must be a URL like \"https://mirror.example\", not %q", s)
		}
		return checkPlain(s)
	},
	"tag": func(s string) string {
		// A repeat count in the regexp would make its compiled form a thousand times as large.
		if len(s) <= 255 {
			return tagForm(s)
		}
		return "must be at most 255 characters long"
	},
	"cidr": func(s string) string {
		if s == "" {
			return ""
		}
		if p, err := netip.ParsePrefix(s); err == nil && p.Addr().Zone() == "" {
			return ""
		}
		if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
			return ""
		}
		return fmt.Sprintf("must be a network like \"10.77.0.0/24\", not %q", s)
	},
	"ip": func(s string) string {
		if s == "" {
			return ""
		}
		if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
			return ""
		}
		return fmt.Sprintf("must be an IP address like \"10.77.0.1\", not %q", s)
	},
	"subnet": func(s string) string {
		if s == "" {
			return ""
		}
		if p, err := netip.ParsePrefix(s); err == nil && p.Addr().Is4() {
			return ""
		}
		return fmt.Sprintf("must be an IPv4 network like \"10.77.0.0/24\", not %q", s)
	},
	"port": checkPort,
	"idle": func(s string) string {
		if s == "" || s == "off" {
			return ""
		}
		if d, err := time.ParseDuration(s); err == nil && d > 0 {
			return ""
		}
		return fmt.Sprintf("must be a duration like \"30m\", or \"off\", not %q", s)
	},
	"path": func(s string) string {
		if strings.IndexByte(s, 0) >= 0 {
			return "must not contain a NUL byte"
		}
		return ""
	},
	"abspath": func(s string) string {
		if !strings.HasPrefix(s, "/") || strings.IndexByte(s, 0) >= 0 {
			return fmt.Sprintf("must be an absolute path, not %q", s)
		}
		return ""
	},
}

var tagForm = matches(shareTag, "a tag (letters, digits, '_', '.', '-')")

func matches(re *lazyre.Regexp, what string) func(string) string {
	return func(s string) string {
		if re.MatchString(s) {
			return ""
		}
		return fmt.Sprintf("must be %s, not %q", what, s)
	}
}

func checkPlain(s string) string {
	if strings.ContainsFunc(s, unicode.IsControl) {
		return "must not contain control characters"
	}
	return ""
}

func checkPort(s string) string {
	m := portOrRange.FindStringSubmatch(s)
	if m == nil {
		return fmt.Sprintf("must be a port from 1 to 65535 or a range like \"8000-8100\", not %q", s)
	}
	first, _ := strconv.Atoi(m[1])
	last := first
	if m[3] != "" {
		last, _ = strconv.Atoi(m[3])
	}
	if first < 1 || last > 65535 || last < first {
		return fmt.Sprintf("invalid firewall port %q: ports are from 1 to 65535", s)
	}
	return ""
}

// maxCount bounds integers, far above the sizes of any machine, so that sums cannot overflow.
const maxCount = 1 << 30

// nearest returns the candidate that is most similar to a mistyped word, or "".
func nearest(word string, candidates []string) string {
	best, bestDistance := "", len(word)
	lower := strings.ToLower(word)
	for _, c := range candidates {
		d := distance(lower, c)
		if len(word) > 2 && strings.HasPrefix(c, lower) {
			d = 1 // "ram" for "ram_mb"
		}
		if d < bestDistance {
			best, bestDistance = c, d
		}
	}
	if bestDistance > max(2, len(best)/2) {
		return ""
	}
	return best
}

// distance returns the edit distance of a and b: insertions, deletions, replacements and swaps of
// adjacent characters (optimal string alignment).
func distance(a, b string) int {
	if utf8.RuneCountInString(a) > 64 {
		return 64
	}
	x, y := []rune(a), []rune(b)
	rows := make([][]int, len(x)+1)
	for i := range rows {
		rows[i] = make([]int, len(y)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(x); i++ {
		for j := 1; j <= len(y); j++ {
			cost := 1
			if x[i-1] == y[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && x[i-1] == y[j-2] && x[i-2] == y[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(x)][len(y)]
}
