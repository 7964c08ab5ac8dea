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

// A planner is a function that returns a plan or actions. It may only compute them from its arguments.
// These tests follow its calls through all code of this module. A rule on imports would be weaker: it
// would separate observing, planning and acting of one subject into packages, and it would miss a
// planner that touches the host through a function of another package.

// program loads the packages of this module and testdata/pure as SSA. Of other modules it loads only
// the types.
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

// functions returns the functions of this module without those of tests, sorted by name.
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
		switch dir := dirOf(f); {
		case !strings.HasPrefix(f.Pkg.Pkg.Path(), module+"/"), dir == "internal/plan", dir == looptest:
		case strings.HasPrefix(dir, "test/") && !strings.HasSuffix(dir, "testdata/pure"):
		default:
			out = append(out, f)
		}
	}
	slices.SortFunc(out, func(a, b *ssa.Function) int { return strings.Compare(a.String(), b.String()) })
	return prog, out
}

// dirOf returns the directory of a function's package, relative to the module.
func dirOf(f *ssa.Function) string { return strings.TrimPrefix(f.Pkg.Pkg.Path(), module+"/") }

// short removes the module path from a name.
func short(s string) string { return strings.ReplaceAll(s, module+"/", "") }

// isPlanner reports whether a function is a planner.
func isPlanner(f *ssa.Function) bool { return f.Parent() == nil && returnsPlan(f.Signature) }

// returnsPlan reports whether a function returns a plan or actions.
func returnsPlan(s *types.Signature) bool {
	rs := s.Results()
	for i := range rs.Len() {
		s := strings.TrimLeft(types.TypeString(rs.At(i).Type(), nil), "*[]")
		if slices.Contains([]string{"internal/plan.Plan", "internal/plan.Action", "provision.planned", "provision/folders.Planned"}, strings.TrimPrefix(s, module+"/")) {
			return true
		}
	}
	return false
}

// TestPlannersArePure fails on planners that do more than compute, and checks the rule with
// testdata/pure: it must catch exactly the functions named Bad*.
func TestPlannersArePure(t *testing.T) {
	prog, all := functions(t)
	c := &purity{prog: prog, known: map[*ssa.Function]string{}}
	n, caught := 0, map[string]bool{}
	for _, f := range all {
		if !isPlanner(f) {
			continue
		}
		n++
		why := c.effect(f)
		if strings.HasSuffix(dirOf(f), "testdata/pure") {
			caught[f.Name()] = why != ""
			continue
		}
		if why != "" {
			t.Errorf("%s is a planner, but %s", short(f.String()), why)
		}
	}
	for name, bad := range caught {
		if bad != strings.HasPrefix(name, "Bad") {
			t.Errorf("testdata/pure.%s: caught: %v", name, bad)
		}
	}
	if n < 70 || len(caught) < 10 {
		t.Errorf("the rule found only %d planners, %d of them in testdata/pure", n, len(caught))
	}
}

// TestTargetsDoNotChange fails on code outside provision/target that changes a Target that is not its
// own copy.
func TestTargetsDoNotChange(t *testing.T) {
	prog, all := functions(t)
	caught := map[string]bool{}
	for _, f := range all {
		if dirOf(f) == "provision/target" {
			continue
		}
		for _, b := range f.Blocks {
			for _, in := range b.Instrs {
				s, ok := in.(*ssa.Store)
				if !ok {
					continue
				}
				if what := changed(s.Addr); strings.HasPrefix(what, "*target.Target") {
					if strings.HasSuffix(dirOf(f), "testdata/pure") {
						caught[f.Name()] = true
						continue
					}
					t.Errorf("%s: %s changes %s", prog.Fset.Position(in.Pos()), short(f.String()), what)
				}
			}
		}
	}
	if !caught["Forbidden"] || caught["Allowed"] || caught["GoodCopy"] {
		t.Errorf("the rule catches %v in testdata/pure, want Forbidden only", caught)
	}
}

// purity finds side effects of functions.
type purity struct {
	prog  *ssa.Program
	known map[*ssa.Function]string // results of effect
}

// effect describes the first side effect of a function and of those it calls, or returns "".
func (c *purity) effect(f *ssa.Function) string {
	if why, ok := c.known[f]; ok {
		return why
	}
	c.known[f] = "" // ends the recursion for a function that calls itself
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

// step describes the side effect of one instruction, or returns "".
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
		for _, g := range functionArgs(call) {
			if why := c.effect(g); why != "" {
				return why
			}
		}
		if call.IsInvoke() {
			// A planner behind an interface is checked by itself.
			if of := named(call.Value.Type()); slices.Contains(hostInterfaces, of) && !returnsPlan(call.Method.Type().(*types.Signature)) {
				return "calls " + of + "." + call.Method.Name()
			}
			return ""
		}
		if field := hostField(call.Value); field != "" {
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

// hostStructs are structs with function-valued fields that access the host.
var hostStructs = []string{"session.Session", "host.Env", "editor.Env"}

// hostField returns the field of one of hostStructs that holds the called function, or "".
func hostField(called ssa.Value) string {
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
	if !slices.Contains(hostStructs, named(of)) {
		return ""
	}
	return named(of) + "." + of.Underlying().(*types.Struct).Field(field).Name()
}

// functionArgs returns the functions that a call gets as arguments and may call itself, as
// slices.SortFunc does. It omits those whose first parameter is a context or an error, because an
// action calls these later.
func functionArgs(call *ssa.CallCommon) (out []*ssa.Function) {
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

// hostInterfaces are interfaces whose implementations access the host, libvirt, a guest or the user.
var hostInterfaces = []string{"session.Console", "session.FirewallState", "guest.Conn", "loop.Runner", "root.Applier"}

// facts are the types of planners' arguments.
var facts = []string{
	"target.Target", "target.Clone", "target.Settings", "session.Session", "state.Instance", "config.Config", "config.VM",
	"loop.Facts", "loop.Progress", "loop.Clone", "loop.Settings", "loop.Guest", "loop.WallFacts", "domain.Facts", "network.Facts", "share.HostFacts", "share.GuestFacts",
	"firewall.Facts", "image.Facts", "images.Facts", "sshcfg.Facts", "gitsync.Guest", "gitsync.Host",
}

// changed returns which field of facts, or which global variable, a store to addr changes. It returns
// "" for the function's own values.
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

// named returns the name of a type with its package, without the pointer.
func named(t types.Type) string {
	return strings.TrimPrefix(types.TypeString(t, func(p *types.Package) string { return p.Name() }), "*")
}

// touches reports whether a function of another module, or of virt.Conn, reads or changes the host, the
// network or the clock.
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
