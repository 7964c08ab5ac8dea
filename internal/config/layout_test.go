package config

import (
	"bytes"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// TestRandomLayouts assembles files from pieces that a byte fuzzer takes long to find.
func TestRandomLayouts(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	tried := 0
	for range 100000 {
		s := []string{"x", "/y z", "é\"\\", "\n\t\u0085"}[r.IntN(4)]
		if checkMutation(t, randomLayout(r), r.IntN(len(mutations)), s, r.IntN(5)) {
			tried++
		}
		if tried == 4000 {
			return
		}
	}
	t.Errorf("only %d valid layouts", tried)
}

func randomLayout(r *rand.Rand) []byte {
	var b strings.Builder
	for n := r.IntN(12); n >= 0; n-- {
		b.WriteString(pieces[r.IntN(len(pieces))])
	}
	text := b.String()
	if r.IntN(3) == 0 {
		text = strings.ReplaceAll(text, "\n", "\r\n")
	}
	if r.IntN(4) == 0 {
		text = strings.TrimRight(text, "\r\n")
	}
	if r.IntN(5) == 0 {
		text = "\ufeff" + text
	}
	return []byte(text)
}

var pieces = []string{
	"\n", "\n", "  \n", "# comment\n", "# [vms]\n", "  # indented\n", "\n# floating\n\n",
	"active_vm = 'a'\n", "mine = 1\n", "yours = '''\n[[vms]]\n\n# no comment\n'''\n",
	"[behavior]\n", "[behavior] # c\nyes_sudo = true # d\n", "behavior = {}\n", "behavior.yes_sudo = true\n",
	"behavior = { yes_sudo = true, x = {} } # c\n", "behavior = {\n  yes_sudo = true, # c\n}\n",
	"[defaults]\n", "[defaults.vm]\n", "[ defaults . \"vm\" ]\n  cpus = 1\n", "defaults.vm.cpus = 1\n",
	"vm.cpus = 1\n", "vm = { cpus = 1 }\n", "defaults = { vm.cpus = 1, sync = { paths = [ 'a' ] } }\n",
	"[defaults.vm.mine]\n", "[defaults.mine.deep]\n",
	"[defaults.sync]\npaths = []\n", "[defaults.sync]\npaths = [\n  # none\n]\n",
	"[defaults.sync]\npaths = [ 'a', # c\n  'b'\n  ,\n  'c', 'd' # e\n]\n",
	"[defaults.sync]\npaths = [\n  'a',\n  # c\n  'b', # d\n\n  'c'\n  # e\n]\n", "[defaults.sync]\n'paths' = ['a','b',]\n",
	"[[vms]]\nname = 'a'\n", "[[vms]]\nname = 'b'\n", " [[vms]] # c\n name = 'c'\n", "[vms.vm]\n", "[vms.vm]\ncpus = 1\n",
	"[vms.sync]\nenabled = true\n", "vm.ram_mb = 4\n", "[vms.mine]\nx = 1\n",
	"vms = []\n", "vms = [{name='a'}, {name='b', vm = {cpus=1}}]\n", "vms = [\n  {name='a'}, # c\n  # d\n  {name='b'}\n]\n",
	"attachments = [ ]\n", "[[attachments]]\nhost_path = '/p'\nvm_name = 'a'\n",
	"[[attachments]]\nvm_name = 'b'\nhost_path = \"/p\"\nguest_dst = \"\"\"\n/q\"\"\"\nodd = [[1],[2]]\n", "[[mine]]\nx = 1\n",
	"[run]\ncpus = 2\n", "run.memory_mb = 512\n", "[templates]\n", "[templates.a] # c\n", "[templates.b]\npackages = ['x']\n", "[templates.b.mine]\n",
	"[templates]\nc.cpus = 1\nc.mine = 2\n", "templates.d.script = 's'\n", "templates = { e = { cpus = 1 } } # c\n", "templates = {}\n",
}

// mutations each change one value and report whether they could.
var mutations = []func(c *Config, s string, n int) bool{
	func(c *Config, _ string, n int) bool { c.Defaults.VM.CPUs = n; return true },
	func(c *Config, _ string, n int) bool { c.Behavior.YesSudo = n%2 == 0; return true },
	func(c *Config, s string, _ int) bool {
		c.Defaults.Sync.Paths = append(c.Defaults.Sync.Paths, s)
		return true
	},
	func(c *Config, s string, _ int) bool { c.Defaults.Paths.BaseDir = s; return true },
	func(c *Config, s string, n int) bool {
		if len(c.Attachments) == 0 {
			return false
		}
		c.Attachments[n%len(c.Attachments)].GuestDst = s
		return true
	},
	func(c *Config, _ string, n int) bool {
		if len(c.VMs) == 0 {
			return false
		}
		c.VMs[n%len(c.VMs)].VM.RAMMB = n
		return true
	},
	func(c *Config, s string, _ int) bool {
		c.UpsertAttachment(Attachment{HostPath: "/" + s, VMName: "a", TypedPath: s})
		return true
	},
	func(c *Config, _ string, n int) bool {
		if len(c.VMs) == 0 {
			return false
		}
		return c.RemoveVM(c.VMs[n%len(c.VMs)].Name)
	},
	func(c *Config, _ string, n int) bool {
		p := c.Defaults.Sync.Paths
		if len(p) == 0 {
			return false
		}
		n %= len(p)
		c.Defaults.Sync.Paths = append(append([]string{}, p[:n]...), p[n+1:]...)
		return true
	},
	func(c *Config, s string, n int) bool {
		tm, _ := c.TemplateNamed("abc"[n%3 : n%3+1])
		tm.Script = s
		c.UpsertTemplate(tm)
		return true
	},
	func(c *Config, _ string, n int) bool { c.Run.CPUs = n; return true },
	func(c *Config, _ string, n int) bool {
		if len(c.Templates) == 0 {
			return false
		}
		return c.RemoveTemplate(c.Templates[n%len(c.Templates)].Name)
	},
}

// checkMutation makes one change to a file and checks that the result decodes to it, that no other
// byte and no unknown key is lost, and that adding and removing a record restores the bytes. It
// reports whether the change applied to this file.
func checkMutation(t *testing.T, data []byte, which int, s string, n int) bool {
	t.Helper()
	if which < 0 || which >= len(mutations) || n < 0 || n > maxCount || !utf8.ValidString(s) || strings.Contains(s, "\x00") {
		return false
	}
	doc, err := parse(data)
	if err != nil {
		return false
	}
	have, b := bind(doc)
	if len(b.problems) > 0 || have.SchemaVersion > Schema {
		return false
	}
	want := have.Clone()
	if !mutations[which](&want, s, n) {
		return false
	}
	out, expect, err := rewrite(data, &have, &want)
	if err != nil && len(want.Templates) < len(have.Templates) && doc.root.child("templates").inline() {
		return false // refused: see removeTable
	}
	if err != nil {
		t.Fatalf("%v\n%q", err, data)
	}
	after, err := parse(out)
	if err != nil {
		t.Fatalf("%v\n%q\n%q", err, data, out)
	}
	got, a := bind(after)
	if !same(reflect.ValueOf(*expect), reflect.ValueOf(got)) {
		t.Fatalf("-want +got\n%s\n%q\n%q", cmp.Diff(*expect, got, cmpopts), data, out)
	}
	if len(want.VMs) < len(have.VMs) || len(want.Templates) < len(have.Templates) || len(want.Attachments) < len(have.Attachments) {
		if have.ActiveVM == want.ActiveVM && doc.onlyHeaded() && !isSubsequence(lines(out), lines(data)) {
			t.Fatalf("removing added something\n%q\n%q", data, out)
		}
		return true
	}
	if len(a.unknown) != len(b.unknown) {
		t.Fatalf("unknown keys lost\n%q\n%q", data, out)
	}
	if p, q := common(data, out); p+q < len(data) && !doc.inOneItem(p, len(data)-q) {
		t.Fatalf("bytes %d to %d were lost\n%q\n%q", p, len(data)-q, data, out)
	}
	if added := len(want.Attachments) > len(have.Attachments); added && endsWithLine(data) && after.root.child("attachments").origin == headed {
		back, _, err := rewrite(out, &got, &have)
		// Blank lines at the end of the file are used as the one before a new record.
		if err != nil || !bytes.Equal(bytes.TrimRight(back, " \r\n"), bytes.TrimRight(data, " \r\n")) {
			t.Fatalf("adding and removing changed the file (%v)\n%q\n%q\n%q", err, data, out, back)
		}
	}
	return true
}

// inline reports whether a table or one in it is written as { ... }.
func (n *node) inline() bool {
	if n.origin == inlined && n.shape == isTable {
		return true
	}
	for _, k := range n.kids {
		if k.inline() {
			return true
		}
	}
	return false
}

func (d *document) inOneItem(start, end int) bool {
	for _, it := range d.items {
		if start >= it.start && end <= it.end {
			return true
		}
	}
	return false
}

// onlyHeaded reports whether no list of records is written inline; removing a record from an inline
// list changes a line instead of removing lines.
func (d *document) onlyHeaded() bool {
	for _, k := range d.root.kids {
		if k.shape == isList && k.origin != headed {
			return false
		}
	}
	return true
}

func lines(b []byte) []string {
	return strings.SplitAfter(strings.TrimPrefix(string(b), string(utf8BOM)), "\n")
}

func isSubsequence(part, all []string) bool {
	for _, line := range all {
		if len(part) > 0 && part[0] == line {
			part = part[1:]
		}
	}
	return len(part) == 0 || len(part) == 1 && part[0] == ""
}

func endsWithLine(data []byte) bool { return len(data) == 0 || data[len(data)-1] == '\n' }

// common returns the lengths of the common prefix and the common suffix.
func common(a, b []byte) (p, q int) {
	for p < len(a) && p < len(b) && a[p] == b[p] {
		p++
	}
	for q < len(a)-p && q < len(b)-p && a[len(a)-1-q] == b[len(b)-1-q] {
		q++
	}
	return p, q
}
