package config

import (
	"fmt"
	"reflect"
	"slices"
	"time"

	"aivm.dev/aivm/internal/ui"
)

// DefaultTemplate is the name of the template that a run uses if none is named.
const DefaultTemplate = "default"

// Run is [run]: what "aivm run" does where no flag says otherwise. MemoryMB (MiB) and CPUs of 0 mean
// those of the template. Workspace is "rw", "ro" or "none"; empty means rw. Ask is for the network
// rules by name: an unknown name is asked about, not refused. Timeout is a duration ("30m"); empty
// or "off" means no limit.
type Run struct {
	Template  string `toml:"template" check:"templatename"`
	MemoryMB  int    `toml:"memory_mb"`
	CPUs      int    `toml:"cpus"`
	Workspace string `toml:"workspace" check:"workspace"`
	Ask       bool   `toml:"ask"`
	Timeout   string `toml:"timeout" check:"idle"`
}

// TimeLimit returns the limit of a run; 0 means none.
func (r Run) TimeLimit() time.Duration {
	d, err := time.ParseDuration(r.Timeout)
	if err != nil {
		return 0
	}
	return d
}

// Template is [templates.NAME]: what "aivm setup" builds a template from. Image is a name of aivm's
// catalogue, a URL or a path, as in [image]; "auto" is aivm's choice. Script is the path of a script
// of the host, which setup runs in the VM. MemoryMB (MiB), CPUs and DiskGB (GiB) of 0 mean: choose.
type Template struct {
	Name     string   // of the section
	Image    string   `toml:"image" check:"plain" write:"always"`
	Packages []string `toml:"packages" check:"package"`
	Script   string   `toml:"script" check:"path"`
	MemoryMB int      `toml:"memory_mb" write:"nonzero"`
	CPUs     int      `toml:"cpus" write:"nonzero"`
	DiskGB   int      `toml:"disk_gb" write:"nonzero"`
}

// NewTemplate returns a template with the values of absent keys; it is not added to a Config.
func NewTemplate(name string) Template { return Template{Name: name, Image: "auto"} }

// ValidateTemplateName checks the name of a template: it is a key in the config and a word in
// commands. The error states the rule.
func ValidateTemplateName(name string) error {
	if strictName.MatchString(name) && len(name) <= maxName {
		return nil
	}
	return ui.Usage("template name %q is not allowed: use 1 to %d of a-z, 0-9 and '-', with no '-' at either end", name, maxName)
}

func checkTemplateName(s string) string {
	if s == "" || strictName.MatchString(s) && len(s) <= maxName {
		return ""
	}
	return fmt.Sprintf("must be the name of a template (1 to %d of a-z, 0-9 and '-'), not %q", maxName, s)
}

func checkWorkspace(s string) string {
	if s == "" || s == "rw" || s == "ro" || s == "none" {
		return ""
	}
	return fmt.Sprintf("must be rw, ro or none, not %q", s)
}

// ValidatePackage checks a package name as the key packages does.
func ValidatePackage(name string) error {
	if msg := checks["package"](name); msg != "" || len(name) > 200 {
		return ui.Usage("%q is not a package name", name)
	}
	return nil
}

// FindTemplate returns the template named name; the pointer is into c.
func (c *Config) FindTemplate(name string) (*Template, bool) {
	for i := range c.Templates {
		if c.Templates[i].Name == name {
			return &c.Templates[i], true
		}
	}
	return nil, false
}

// TemplateNamed returns a copy of the template named name. The default template exists without a
// section.
func (c *Config) TemplateNamed(name string) (Template, bool) {
	if t, ok := c.FindTemplate(name); ok {
		out := *t
		out.Packages = slices.Clone(t.Packages)
		return out, true
	}
	return NewTemplate(name), name == DefaultTemplate
}

// TemplateNames lists the templates in the order of the file; the default one exists without a section.
func (c *Config) TemplateNames() []string {
	var names []string
	for _, t := range c.Templates {
		names = append(names, t.Name)
	}
	if !slices.Contains(names, DefaultTemplate) {
		names = append(names, DefaultTemplate)
	}
	return names
}

// UpsertTemplate replaces the template of the same name or appends t.
func (c *Config) UpsertTemplate(t Template) {
	if have, ok := c.FindTemplate(t.Name); ok {
		*have = t
		return
	}
	c.Templates = append(c.Templates, t)
}

// RemoveTemplate removes a template, and reports whether it had a section.
func (c *Config) RemoveTemplate(name string) bool {
	n := len(c.Templates)
	c.Templates = slices.DeleteFunc(c.Templates, func(t Template) bool { return t.Name == name })
	return len(c.Templates) != n
}

// namedTables reads the tables [KEY.NAME] of n into a list of records with a field Name.
func (b *binder) namedTables(v reflect.Value, n *node, key, schema string) {
	if n.shape != isTable {
		b.wrong(n.valueAt(), key, "must be tables ([%s.NAME]), not %s", key, typeName(n))
		return
	}
	for _, k := range n.kids {
		tkey := joinKey(key, bareOrQuoted(k.key))
		rec := emptyRecord(v.Type().Elem())
		rec.FieldByName("Name").SetString(k.key)
		switch {
		case ValidateTemplateName(k.key) != nil:
			b.wrong(k.at, tkey, "must be the name of a template (1 to %d of a-z, 0-9 and '-'), not %q", maxName, k.key)
		case k.shape != isTable:
			b.wrong(k.valueAt(), tkey, "must be a table, not %s", typeName(k))
		default:
			b.table(rec, k, tkey, schema)
		}
		v.Set(reflect.Append(v, rec))
	}
}

// tables changes, removes and appends the tables [SECTION.NAME], and returns them in their
// resulting order in the file.
func (e *editor) tables(section string, have, want reflect.Value) (reflect.Value, error) {
	order := reflect.MakeSlice(have.Type(), 0, want.Len())
	became, fresh := pairUp(have, want)
	nameOf := func(list reflect.Value, i int) string { return list.Index(i).FieldByName("Name").String() }
	for i, j := range became {
		name := nameOf(have, i)
		if j >= 0 {
			if err := e.fields([]any{section, name}, have.Index(i), want.Index(j)); err != nil {
				return order, err
			}
			continue
		}
		n, _ := e.doc.find([]any{section, name})
		edits, err := e.doc.removeTable(n)
		if err == nil {
			err = e.do(edits)
		}
		if err != nil {
			return order, err
		}
	}
	for _, j := range fresh {
		rec := want.Index(j)
		for _, p := range pairs(rec, emptyRecord(rec.Type()), nil, false) {
			if err := e.do(e.doc.put([]any{section, nameOf(want, j)}, p.key, p.value)); err != nil {
				return order, err
			}
		}
	}
	n, rest := e.doc.find([]any{section})
	if len(rest) > 0 {
		return order, nil
	}
	for _, k := range n.kids {
		for j := range want.Len() {
			if nameOf(want, j) == k.key {
				order = reflect.Append(order, want.Index(j))
			}
		}
	}
	return order, nil
}

// removeTable removes a table written with a header, or with dotted keys.
func (d *document) removeTable(n *node) ([]edit, error) {
	for p := n; p != nil; p = p.parent {
		if p.origin == inlined {
			return nil, &syntaxError{offset: n.at, message: "it is part of an inline table, which aivm does not shorten"}
		}
	}
	edits := d.removeRecords([]*node{n})
	host, _ := hostOf(n)
	for i, it := range d.items {
		if !it.header && it.section == host && host != n && d.defines(i, n) {
			edits = append(edits, edit{it.start, it.end, ""})
		}
	}
	return edits, nil
}

// defines reports whether item i defines n or something below it.
func (d *document) defines(i int, n *node) bool {
	return n.item == i || slices.ContainsFunc(n.kids, func(k *node) bool { return d.defines(i, k) })
}

// An Entry is one value of a TOML text: of a key that is no table. Value is a string, bool, int64,
// float64 or time.Time, a []any of these, or nil for a list that contains tables.
type Entry struct {
	Key          []string
	Line, Column int
	Value        any
}

// Name returns the key in TOML notation.
func (e Entry) Name() string { return dottedKey(e.Key) }

// Known reports whether the config has such a key.
func Known(key []string) bool {
	t := reflect.TypeFor[Config]()
	for i := 0; i < len(key); i++ {
		if t.Kind() != reflect.Struct {
			return false
		}
		f := fieldOf(t, key[i])
		if f < 0 {
			return false
		}
		named := t.Field(f).Tag.Get("list") == "named"
		if t = t.Field(f).Type; named {
			t = t.Elem()
			i++ // the name
		}
	}
	return len(key) > 0
}

// Entries returns the values of a TOML text in the order of their tables, or a *FileError with the
// position of its first mistake; path is used in the error only. The text may be hostile.
func Entries(path string, text []byte) ([]Entry, error) {
	doc, err := parse(text)
	if err != nil {
		return nil, fileError(path, text, err)
	}
	var out []Entry
	doc.entries(doc.root, nil, &out)
	return out, nil
}

func (d *document) entries(n *node, path []string, out *[]Entry) {
	for _, k := range n.kids {
		key := append(slices.Clip(path), k.key)
		if k.shape == isTable && len(k.kids) > 0 {
			d.entries(k, key, out)
			continue
		}
		e := Entry{Key: key, Value: k.val}
		e.Line, e.Column = d.position(k.at)
		if k.shape == isList {
			list := []any{}
			for _, elem := range k.kids {
				list = append(list, elem.val)
			}
			if e.Value = list; slices.ContainsFunc(k.kids, func(elem *node) bool { return elem.shape != isLeaf }) {
				e.Value = nil
			}
		}
		*out = append(*out, e)
	}
}
