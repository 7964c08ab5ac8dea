#!/usr/bin/env bash
# Fetches the rules of a version of gitleaks for internal/secretscan, with their
# license, and writes the examples in its sources as the test's samples:
#
#   scripts/gitleaks.sh v8.30.0
#
# Afterwards adapt the version in internal/secretscan/doc.go and gitleaks.go and
# in docs/dependencies.md, and give new rules a kind in kinds.go (a test names
# them). The examples are random, so the samples differ with every run.
set -euo pipefail
version=${1:?usage: scripts/gitleaks.sh VERSION}
to=$(cd "$(dirname "$0")/../internal/secretscan" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
from=$(cd "$work" && go mod download -json "github.com/zricethezav/gitleaks/v8@$version" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
cp -r "$from/." "$work"
chmod -R u+w "$work"
cp "$work/config/gitleaks.toml" "$to/rules.toml"
cp "$work/LICENSE" "$to/rules.LICENSE"
chmod 644 "$to/rules.toml" "$to/rules.LICENSE"

# Its rules check their own examples when they are built. Instead, print them.
cat >"$work/cmd/generate/config/utils/validate.go" <<'GO'
package utils

import (
	"encoding/json"
	"maps"
	"os"
	"slices"

	"github.com/zricethezav/gitleaks/v8/config"
)

func write(rule, path, text string, secret bool) {
	sample := map[string]any{"rule": rule, "path": path, "text": text, "secret": secret}
	if err := json.NewEncoder(os.Stdout).Encode(sample); err != nil {
		panic(err)
	}
}

func Validate(r config.Rule, secrets, harmless []string) *config.Rule {
	for _, s := range slices.Sorted(slices.Values(secrets)) {
		write(r.RuleID, "", s, true)
	}
	for _, s := range harmless {
		write(r.RuleID, "", s, false)
	}
	return &r
}

func ValidateWithPaths(r config.Rule, secrets, harmless map[string]string) *config.Rule {
	for _, p := range slices.Sorted(maps.Keys(secrets)) {
		write(r.RuleID, p, secrets[p], true)
	}
	for _, p := range slices.Sorted(maps.Keys(harmless)) {
		write(r.RuleID, p, harmless[p], false)
	}
	return &r
}
GO
mkdir -p "$to/testdata"
(cd "$work/cmd/generate/config" && go run . "$work/again.toml") | gzip -9 -n >"$to/testdata/samples.json.gz"
