package ui

import "testing"

func TestAddFlagBeforeDashDash(t *testing.T) {
	for line, want := range map[string]string{
		"aivm code .":                       "aivm code . --yes",
		"aivm ssh . -- make -j":             "aivm ssh . --yes -- make -j",
		"aivm ssh --":                       "aivm ssh --yes --",
		"aivm ssh 'a -- b' -- x -- y":       "aivm ssh 'a -- b' --yes -- x -- y",
		`aivm code 'a'"'"' -- b' --vm x`:    `aivm code 'a'"'"' -- b' --vm x --yes`,
		"aivm code --vm x --access ro -- -": "aivm code --vm x --access ro --yes -- -",
		"aivm code a--b":                    "aivm code a--b --yes",
	} {
		if got := AddFlag(line, "--yes"); got != want {
			t.Errorf("%s:\n got %s\nwant %s", line, got, want)
		}
	}
}
