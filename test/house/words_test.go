package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

// wordsFile has two tables: words and names that must not be used.
const wordsFile = "docs/words.md"

// A word is a word or phrase that must not be used, and what to write instead.
type word struct {
	text, instead string
	re            *regexp.Regexp
}

// table returns the first two cells of each row of the Markdown table below a heading. A first cell with
// several comma-separated terms gives a row for each.
func table(t *testing.T, text, heading string) (rows [][2]string) {
	t.Helper()
	_, after, found := strings.Cut(text, "\n## "+heading+"\n")
	if !found {
		t.Fatalf("%s has no section %q", wordsFile, heading)
	}
	section, _, _ := strings.Cut(after, "\n## ")
	for line := range strings.Lines(section) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) < 4 || strings.HasPrefix(strings.TrimSpace(cells[1]), "---") || strings.TrimSpace(cells[1]) == "out" {
			continue
		}
		for _, w := range strings.Split(cells[1], ",") {
			rows = append(rows, [2]string{strings.Trim(strings.TrimSpace(w), "`"), strings.TrimSpace(cells[2])})
		}
	}
	if len(rows) < 10 {
		t.Fatalf("%s: only %d rows could be parsed below %q", wordsFile, len(rows), heading)
	}
	return rows
}

func outWords(t *testing.T) (words []word, names map[string]string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, wordsFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range table(t, string(b), "Words that are out") {
		phrase := strings.ReplaceAll(regexp.QuoteMeta(r[0]), " ", `\s+`)
		words = append(words, word{r[0], r[1], regexp.MustCompile(`(?i)(^|[^\pL\pN_-])(` + phrase + `)($|[^\pL\pN_-])`)})
	}
	names = map[string]string{}
	for _, r := range table(t, string(b), "Names that are out") {
		names[strings.ToLower(r[0])] = r[1]
	}
	return words, names
}

// quoted are files that have the words on purpose: the list of them, and that of
// the keys of JSON.
var quoted = []string{wordsFile, "test/house/words_test.go", "test/script/shape_test.go", "LICENSE"}

// TestWords fails on words that docs/words.md rules out, in Go comments and strings, scripts and
// documents.
func TestWords(t *testing.T) {
	words, _ := outWords(t)
	check := func(at, text string) {
		text = strings.ReplaceAll(text, `"mends"`, "") // a key of `host doctor --json`, which stays
		for _, w := range words {
			if m := w.re.FindString(text); m != "" {
				t.Errorf("%s: %q is out: write %s (docs/words.md)", at, strings.TrimSpace(m), w.instead)
			}
		}
	}
	for _, name := range tracked(t) {
		if slices.Contains(quoted, name) || strings.Contains(name, "testdata/") {
			continue
		}
		switch filepath.Ext(name) {
		case ".md", ".sh", ".pl", ".awk":
			b, err := os.ReadFile(filepath.Join(root, name))
			if os.IsNotExist(err) {
				continue // deleted, but the deletion is not committed yet
			}
			if err != nil {
				t.Fatal(err)
			}
			for i, line := range strings.Split(string(b), "\n") {
				check(name+":"+strconv.Itoa(i+1), line)
			}
		case ".go":
			fset, f := parsed(t, name)
			if f == nil {
				continue
			}
			at := func(p token.Pos) string { return name + ":" + strconv.Itoa(fset.Position(p).Line) }
			for _, g := range f.Comments {
				check(at(g.Pos()), g.Text())
			}
			tags := map[*ast.BasicLit]bool{} // keys of JSON and TOML stay
			ast.Inspect(f, func(n ast.Node) bool {
				if field, ok := n.(*ast.Field); ok && field.Tag != nil {
					tags[field.Tag] = true
				}
				if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING && !tags[l] {
					if s, err := strconv.Unquote(l.Value); err == nil {
						check(at(l.Pos()), s)
					}
				}
				return true
			})
		}
	}
}

func parsed(t *testing.T, name string) (*token.FileSet, *ast.File) {
	t.Helper()
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, filepath.Join(root, name), nil, parser.ParseComments)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return fset, f
}

// TestNames fails on declared names and file names that docs/words.md rules out, and on names that
// shadow a builtin of Go.
func TestNames(t *testing.T) {
	words, out := outWords(t)
	for _, name := range tracked(t) {
		if filepath.Ext(name) != ".go" || strings.Contains(name, "testdata/") {
			continue
		}
		base := strings.TrimSuffix(strings.TrimSuffix(filepath.Base(name), ".go"), "_test")
		if instead, bad := out[base]; bad {
			t.Errorf("%s: the file name is out: %s", name, instead)
		}
		fset, f := parsed(t, name)
		if f == nil {
			continue
		}
		ast.Inspect(f, func(n ast.Node) bool {
			method := false
			var ids []*ast.Ident
			switch n := n.(type) {
			case *ast.FuncDecl:
				ids, method = []*ast.Ident{n.Name}, n.Recv != nil
			case *ast.Field:
				ids = n.Names
			case *ast.ValueSpec:
				ids = n.Names
			case *ast.TypeSpec:
				ids = []*ast.Ident{n.Name}
			case *ast.AssignStmt:
				if n.Tok == token.DEFINE {
					ids = idents(n.Lhs)
				}
			case *ast.RangeStmt:
				if n.Tok == token.DEFINE {
					ids = idents([]ast.Expr{n.Key, n.Value})
				}
			}
			for _, id := range ids {
				at := name + ":" + strconv.Itoa(fset.Position(id.Pos()).Line)
				// A method shadows nothing. real, imag and complex are rarely needed.
				if types.Universe.Lookup(id.Name) != nil && !method && !slices.Contains([]string{"real", "imag", "complex", "print", "println"}, id.Name) {
					t.Errorf("%s: %s shadows a builtin of Go", at, id.Name)
				}
				if instead, bad := out[strings.ToLower(id.Name)]; bad {
					t.Errorf("%s: the name %s is out: %s", at, id.Name, instead)
					continue
				}
				for _, part := range camel(id.Name) {
					if instead, bad := out[part]; bad && slices.ContainsFunc(words, func(w word) bool { return w.text == part }) {
						t.Errorf("%s: the name %s is out: %s", at, id.Name, instead)
						break
					}
				}
			}
			return true
		})
	}
}

func idents(es []ast.Expr) (out []*ast.Ident) {
	for _, e := range es {
		if id, ok := e.(*ast.Ident); ok {
			out = append(out, id)
		}
	}
	return out
}

// camel splits an identifier into its words, in lower case.
func camel(name string) (parts []string) {
	part := ""
	for _, r := range name {
		if unicode.IsUpper(r) && part != "" {
			parts, part = append(parts, part), ""
		}
		part += string(unicode.ToLower(r))
	}
	return append(parts, part)
}
