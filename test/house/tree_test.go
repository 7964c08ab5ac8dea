package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "aivm.dev/aivm"

// root is the top of the checkout, relative to this package.
const root = "../.."

type file struct {
	path    string // below root, with slashes
	lines   int
	test    bool
	imports []string
	ast     *ast.File
}

// goFiles returns all Go files of the checkout by directory, also those git does not track.
func goFiles(t *testing.T) map[string][]file {
	t.Helper()
	out := map[string][]file{}
	fset := token.NewFileSet()
	err := filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && p != root && (strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || name == "testdata" || name == "vendor") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") {
			return nil
		}
		f, err := parser.ParseFile(fset, p, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		g := file{path: rel, lines: strings.Count(string(text), "\n"), test: strings.HasSuffix(rel, "_test.go"), ast: f}
		for _, spec := range f.Imports {
			imp, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			g.imports = append(g.imports, imp)
		}
		out[path.Dir(rel)] = append(out[path.Dir(rel)], g)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 5 {
		t.Fatalf("only %d packages found below %s: not the top of the checkout", len(out), root)
	}
	return out
}

// tracked returns the paths that git tracks, relative to root.
func tracked(t *testing.T) []string {
	t.Helper()
	// git refuses a checkout of another user (CI, sudo) by default. Only its list of files is read here.
	cmd := exec.Command("git", "-c", "safe.directory=*", "ls-files", "-z")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	files := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	slices.Sort(files)
	return files
}
