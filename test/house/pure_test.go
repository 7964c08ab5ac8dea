package house

import (
	"fmt"
	"go/types"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/tools/go/packages"
	"golang.org/x/tools/go/ssa"
	"golang.org/x/tools/go/ssa/ssautil"
)

// A planner is a function that returns a plan or actions. What it is given are
// facts and words; what it finds it returns. It is held to that by the calls it
// makes, through all of our code, and not by the imports of its package: so a
// subject keeps what looks, what plans and what acts beside each other, and none
// of the planning can touch the machine through a function of another package.

// program is our packages as SSA, with those of the rule's own test; others'
// packages are known by their types.
var program = sync.OnceValues(func() (*ssa.Program, error) {
	ps, err := packages.Load(&packages.Config{Mode: packages.LoadSyntax, Dir: root}, "./...", "./test/house/testdata/pure")
	if err != nil {
		return nil, err
	}
	for _, p := range ps {
		for _, e := range p.Errors {
			return nil, e
		}
	}
	prog, _ := ssautil.Packages(ps, 0)
	prog.Build()
	return prog, nil
})

// functions are ours, in order, without those of tests.
func functions(t *testing.T) (*ssa.Program, []*ssa.Function) {
	t.Helper()
	prog, err := program()
	if err != nil {
		t.Fatal(err)
	}
	var out []*ssa.Function
	for f := range ssautil.AllFunctions(prog) {
		if f.Pkg == nil || f.Synthetic != "" {
			continue
		}
		switch dir := of(f); {
		case !strings.HasPrefix(f.Pkg.Pkg.Path(), module+"/"), dir == "internal/plan", dir == stage:
		case strings.HasPrefix(dir, "test/") && !strings.HasSuffix(dir, "testdata/pure"):
		default:
			out = append(out, f)
		}
	}
	slices.SortFunc(out, func(a, b *ssa.Function) int { return strings.Compare(a.String(), b.String()) })
	return prog, out
}

// of is the directory of a function's package.
func of(f *ssa.Function) string { return strings.TrimPrefix(f.Pkg.Pkg.Path(), module+"/") }

// short is a name of ours as one reads it in the code.
func short(s string) string { return strings.ReplaceAll(s, module+"/", "") }

// plans reports whether a function is a planner.
func plans(f *ssa.Function) bool { return f.Parent() == nil && planned(f.Signature) }

// planned reports whether a function returns a plan or actions.
func planned(s *types.Signature) bool {
	rs := s.Results()
	for i := range rs.Len() {
		s := strings.TrimLeft(types.TypeString(rs.At(i).Type(), nil), "*[]")
		if slices.Contains([]string{"internal/plan.Plan", "internal/plan.Action", "provision.planned", "provision/folders.Planned"}, strings.TrimPrefix(s, module+"/")) {
			return true
		}
	}
	return false
}

func TestPlannersArePure(t *testing.T) {
	prog, all := functions(t)
	c := &purity{prog: prog, known: map[*ssa.Function]string{}}
	n, caught := 0, map[string]bool{}
	for _, f := range all {
		if !plans(f) {
			continue
		}
		n++
		why := c.effect(f)
		if strings.HasSuffix(of(f), "testdata/pure") {
			caught[f.Name()] = why != ""
			continue
		}
		if why != "" {
			t.Errorf("%s plans, and %s", short(f.String()), why)
		}
	}
	for name, is := range caught {
		if is != strings.HasPrefix(name, "Bad") {
			t.Errorf("the rule takes testdata/pure.%s for %v", name, is)
		}
	}
	if n < 70 || len(caught) < 10 {
		t.Errorf("the rule found %d planners, %d of them its own", n, len(caught))
	}
}

// Only its package makes and changes a Target: all others have copies.
func TestTargetsDoNotChange(t *testing.T) {
	prog, all := functions(t)
	caught := map[string]bool{}
	for _, f := range all {
		if of(f) == "provision/target" {
			continue
		}
		for _, b := range f.Blocks {
			for _, in := range b.Instrs {
				s, ok := in.(*ssa.Store)
				if !ok {
					continue
				}
				if what := changed(s.Addr); strings.HasPrefix(what, "*target.Target") {
					if strings.HasSuffix(of(f), "testdata/pure") {
						caught[f.Name()] = true
						continue
					}
					t.Errorf("%s: %s changes %s", prog.Fset.Position(in.Pos()), short(f.String()), what)
				}
			}
		}
	}
	if !caught["Forbidden"] || caught["Allowed"] || caught["GoodCopy"] {
		t.Errorf("the rule catches %v", caught)
	}
}

// purity finds what a function does beyond computing.
type purity struct {
	prog  *ssa.Program
	known map[*ssa.Function]string // "": nothing
}

func (c *purity) effect(f *ssa.Function) string {
	if why, ok := c.known[f]; ok {
		return why
	}
	c.known[f] = "" // of a function that calls itself
	why := c.find(f)
	c.known[f] = why
	return why
}

func (c *purity) find(f *ssa.Function) string {
	for _, b := range f.Blocks {
		for _, in := range b.Instrs {
			if why := c.step(in); why != "" {
				at := c.prog.Fset.Position(in.Pos())
				return fmt.Sprintf("%s (%s:%d)", why, filepath.Base(at.Filename), at.Line)
			}
		}
	}
	return ""
}

// step is what one instruction does.
func (c *purity) step(in ssa.Instruction) string {
	switch in := in.(type) {
	case *ssa.Store:
		if what := changed(in.Addr); what != "" {
			return "changes " + what
		}
	case *ssa.MapUpdate:
		if u, ok := in.Map.(*ssa.UnOp); ok {
			if what := changed(u.X); what != "" {
				return "changes " + what
			}
		}
	case ssa.CallInstruction:
		call := in.Common()
		for _, g := range given(call) {
			if why := c.effect(g); why != "" {
				return why
			}
		}
		if call.IsInvoke() {
			// A planner behind an interface is looked at for itself.
			if of := named(call.Value.Type()); slices.Contains(outside, of) && !planned(call.Method.Type().(*types.Signature)) {
				return "calls " + of + "." + call.Method.Name()
			}
			return ""
		}
		if field := worldly(call.Value); field != "" {
			return "calls " + field
		}
		if g := call.StaticCallee(); g != nil {
			if touches(g) {
				return "calls " + short(g.String())
			}
			if why := c.effect(g); why != "" {
				return g.Name() + " " + why
			}
		}
	}
	return ""
}

// worlds are the types whose functions are the world outside, as values.
var worlds = []string{"session.Session", "host.Env", "editor.Env"}

// worldly is the field of one of worlds that a called function comes from; "": none.
func worldly(called ssa.Value) string {
	var of types.Type
	field := 0
	switch v := called.(type) {
	case *ssa.Field:
		of, field = v.X.Type(), v.Field
	case *ssa.UnOp:
		a, ok := v.X.(*ssa.FieldAddr)
		if !ok {
			return ""
		}
		of, field = a.X.Type().Underlying().(*types.Pointer).Elem(), a.Field
	default:
		return ""
	}
	if !slices.Contains(worlds, named(of)) {
		return ""
	}
	return named(of) + "." + of.Underlying().(*types.Struct).Field(field).Name()
}

// given are the functions of ours that a call is handed and may make use of at
// once, as slices.SortFunc does. One with a context or an error in front is what
// an action does later.
func given(call *ssa.CallCommon) (out []*ssa.Function) {
	for _, a := range call.Args {
		if m, ok := a.(*ssa.MakeClosure); ok {
			a = m.Fn
		}
		f, ok := a.(*ssa.Function)
		if !ok {
			continue
		}
		if ps := f.Signature.Params(); ps.Len() > 0 && slices.Contains([]string{"context.Context", "error"}, types.TypeString(ps.At(0).Type(), nil)) {
			continue
		}
		out = append(out, f)
	}
	return out
}

// outside are the interfaces behind which the world is.
var outside = []string{"session.Console", "session.FirewallState", "guest.Conn", "loop.Runner", "root.Applier"}

// facts are the types of what a planner is given.
var facts = []string{
	"target.Target", "target.Clone", "target.Settings", "session.Session", "state.Instance", "config.Config", "config.VM",
	"loop.Facts", "loop.Progress", "loop.Clone", "loop.Settings", "loop.Guest", "loop.WallFacts", "domain.Facts", "network.Facts", "share.HostFacts", "share.GuestFacts",
	"firewall.Facts", "image.Facts", "images.Facts", "sshcfg.Facts", "gitsync.Guest", "gitsync.Host",
}

// changed is what a store to addr changes of what a function was given; "": it is
// its own.
func changed(addr ssa.Value) string {
	switch a := addr.(type) {
	case *ssa.Global:
		return short(a.String())
	case *ssa.IndexAddr:
		return changed(a.X)
	case *ssa.FieldAddr:
		switch x := a.X.(type) {
		case *ssa.Alloc:
			return ""
		case *ssa.FieldAddr, *ssa.IndexAddr:
			return changed(x)
		}
		if of := named(a.X.Type()); slices.Contains(facts, of) {
			field := a.X.Type().Underlying().(*types.Pointer).Elem().Underlying().(*types.Struct).Field(a.Field)
			return "*" + of + "." + field.Name()
		}
	}
	return ""
}

// named is the name of a type, without the pointer.
func named(t types.Type) string {
	return strings.TrimPrefix(types.TypeString(t, func(p *types.Package) string { return p.Name() }), "*")
}

// touches reports whether a function of others, or of internal/virt's connection,
// reads or changes this machine, the network or the clock.
func touches(f *ssa.Function) bool {
	var path string
	switch {
	case f.Pkg != nil:
		path = f.Pkg.Pkg.Path()
	case f.Object() != nil && f.Object().Pkg() != nil:
		path = f.Object().Pkg().Path()
	}
	switch path {
	case "net":
		return slices.ContainsFunc([]string{"Dial", "Listen", "Lookup", "Interface", "File", "Resolve"}, func(p string) bool { return strings.HasPrefix(f.Name(), p) })
	case "os", "os/exec", "os/user", "net/http", "syscall", "golang.org/x/sys/unix", "crypto/rand", "github.com/google/uuid":
		return true
	case "path/filepath":
		return slices.Contains([]string{"EvalSymlinks", "Abs", "Glob", "Walk", "WalkDir"}, f.Name())
	case "time":
		return slices.Contains([]string{"Now", "Since", "Until", "Sleep", "After"}, f.Name())
	}
	r := f.Signature.Recv()
	return r != nil && named(r.Type()) == "virt.Conn"
}
