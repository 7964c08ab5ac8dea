package vmpi

import (
	"fmt"
	"slices"
	"strings"
)

// debian has the names in Debian of packages that Alpine names otherwise.
var debian = map[string]string{
	"build-base":          "build-essential",
	"docker-cli":          "docker.io",
	"fd":                  "fd-find",
	"github-cli":          "gh",
	"go":                  "golang",
	"linux-headers":       "linux-libc-dev",
	"openjdk17":           "openjdk-17-jdk",
	"openjdk21":           "openjdk-21-jdk",
	"postgresql-dev":      "libpq-dev",
	"py3-pip":             "python3-pip",
	"py3-virtualenv":      "python3-venv",
	"rust":                "rustc",
	"sqlite":              "sqlite3",
	"sqlite-dev":          "libsqlite3-dev",
	"openssl-dev":         "libssl-dev",
	"musl-dev":            "libc6-dev",
	"zlib-dev":            "zlib1g-dev",
	"yaml-dev":            "libyaml-dev",
	"procps-ng":           "procps",
	"the_silver_searcher": "silversearcher-ag",
	"ctags":               "universal-ctags",
	"bind-tools":          "dnsutils",
}

// debianNames returns the names in Debian of Alpine packages, and a remark for each that differs.
func debianNames(alpine []string) (names, remarks []string) {
	for _, a := range alpine {
		n, listed := debian[a]
		if rest, python := strings.CutPrefix(a, "py3-"); !listed && python {
			n, listed = "python3-"+rest, true
		}
		if !listed {
			n = a
		}
		if n != a {
			remarks = append(remarks, fmt.Sprintf("Alpine's %s is %s in Debian and Ubuntu", a, n))
		}
		if !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return names, remarks
}
