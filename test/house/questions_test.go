package house

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestQuestionsQuoteTheReadme fails on an answer of docs/questions.md that README.md does not give in
// the quoted words.
func TestQuestionsQuoteTheReadme(t *testing.T) {
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	plain := func(s string) string {
		return strings.Join(strings.Fields(strings.NewReplacer("`", "", "*", "").Replace(s)), " ")
	}
	readme, text := plain(read("README.md")), read("docs/questions.md")
	link := regexp.MustCompile(` \(\[[^]]*\]\([^)]*\)\)$`)
	quotes := 0
	for line := range strings.Lines(text) {
		quote, ok := strings.CutPrefix(strings.TrimSpace(line), "> ")
		if !ok {
			continue
		}
		quotes++
		if !link.MatchString(quote) {
			t.Errorf("the quote has no link to a section: %s", quote)
		}
		for _, piece := range strings.Split(link.ReplaceAllString(quote, ""), " — ") { // a command and what it does
			if !strings.Contains(readme, plain(piece)) {
				t.Errorf("README.md has no %q", plain(piece))
			}
		}
	}
	if n := strings.Count(text, "\n## "); n != 10 || quotes < n {
		t.Errorf("%d questions and %d quotes, want ten and at least as many", n, quotes)
	}
}
