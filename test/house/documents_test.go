package house

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
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

// TestDocumentsNameTests fails on a test that a document names and that does not exist.
func TestDocumentsNameTests(t *testing.T) {
	defined := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Z]\w*)\(`)
	named := regexp.MustCompile(`\b(?:Test|Fuzz)[A-Z]\w*`)
	var names []string
	documents := map[string]string{}
	for _, file := range tracked(t) {
		if !strings.HasSuffix(file, "_test.go") && filepath.Ext(file) != ".md" {
			continue
		}
		b, err := os.ReadFile(filepath.Join(root, file))
		if os.IsNotExist(err) {
			continue // removed, and not committed yet
		}
		if err != nil {
			t.Fatal(err)
		}
		if filepath.Ext(file) == ".md" {
			documents[file] = string(b)
		}
		for _, m := range defined.FindAllStringSubmatch(string(b), -1) {
			names = append(names, m[1])
		}
	}
	if len(names) < 500 || len(documents) < 10 {
		t.Fatalf("only %d tests and %d documents were found", len(names), len(documents))
	}
	for file, text := range documents {
		for _, name := range named.FindAllString(text, -1) {
			// A name may stand for those that begin with it, as of go test -run.
			if !slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, name) }) {
				t.Errorf("%s names %s, which does not exist", file, name)
			}
		}
	}
}
