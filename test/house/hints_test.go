package house

import (
	"go/ast"
	"go/token"
	"strconv"
	"strings"
	"testing"

	"aivm.dev/aivm/test/hints"
)

// TestHintsAreCommands fails on a command of ui.Cmd or ui.CmdFor that could not be pasted: it begins
// with a sentence, or one follows the command. test/record and test/script run the commands.
func TestHintsAreCommands(t *testing.T) {
	seen := 0
	for _, name := range tracked(t) {
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") || strings.Contains(name, "testdata/") {
			continue
		}
		fset, f := parsed(t, name)
		if f == nil {
			continue
		}
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) == 0 {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || sel.Sel.Name != "Cmd" && sel.Sel.Name != "CmdFor" {
				return true
			}
			if pkg, ok := sel.X.(*ast.Ident); !ok || pkg.Name != "ui" {
				return true
			}
			seen++
			at := name + ":" + strconv.Itoa(fset.Position(call.Pos()).Line)
			parts := literals(call.Args[len(call.Args)-1])
			if len(parts) > 0 && parts[0].first && strings.Contains(parts[0].text, " ") && !hints.IsCommand(parts[0].text) {
				t.Errorf("%s: %q does not begin with a program", at, parts[0].text)
			}
			for _, p := range parts {
				for _, sentence := range []string{", then", ": aivm ", " then use ", " of a VM"} {
					if strings.Contains(p.text, sentence) {
						t.Errorf("%s: %q is more than a command: use a hint for each, or &&", at, p.text)
					}
				}
			}
			return true
		})
	}
	if seen < 200 {
		t.Errorf("only %d hints were found", seen)
	}
}

// A part is a string literal of a concatenation; first says whether it is the
// leftmost operand.
type part struct {
	text  string
	first bool
}

func literals(e ast.Expr) (out []part) {
	var walk func(e ast.Expr, first bool)
	walk = func(e ast.Expr, first bool) {
		switch e := e.(type) {
		case *ast.BinaryExpr:
			walk(e.X, first)
			walk(e.Y, false)
		case *ast.ParenExpr:
			walk(e.X, first)
		case *ast.BasicLit:
			if s, err := strconv.Unquote(e.Value); err == nil && e.Kind == token.STRING {
				out = append(out, part{s, first})
			}
		}
	}
	walk(e, true)
	return out
}
