package config

import (
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"time"
)

// A Problem is a mistake in the config file.
type Problem struct {
	Line, Column int
	Key          string // "vms[0].vm.cpus"
	Message      string
	used         bool // the value has its effect all the same
}

func (p Problem) String() string {
	at := fmt.Sprintf("line %d, column %d: ", p.Line, p.Column)
	if p.Key == "" {
		return at + p.Message
	}
	return at + p.Key + ": " + p.Message
}

// A Warning is something in the config file that was ignored: an unknown key, or a value without
// effect. If Used is set, it was read as something else, and has its effect.
type Warning struct {
	Line         int
	Key, Message string
	Used         bool
}

// binder turns a document into a Config and collects what is wrong with it.
type binder struct {
	doc      *document
	problems []Problem // wrong types and values
	unknown  []Problem // keys the schema does not have
	notes    []Problem // read, but reported as a warning
}

// retired lists keys of 0.3 that have no effect and cause no warning.
var retired = map[string]bool{"vms.verbosity": true}

func bind(doc *document) (Config, *binder) {
	b := &binder{doc: doc}
	c := DefaultConfig()
	b.bareSections(&c)
	b.table(reflect.ValueOf(&c).Elem(), doc.root, "", "")
	b.records(&c)
	b.networks(&c)
	return c, b
}

func (b *binder) newProblem(at int, key, message string) Problem {
	line, column := b.doc.position(at)
	return Problem{Line: line, Column: column, Key: key, Message: message}
}

func (b *binder) wrong(at int, key, format string, args ...any) {
	b.problems = append(b.problems, b.newProblem(at, key, fmt.Sprintf(format, args...)))
}

func (b *binder) note(at int, key, format string, args ...any) {
	b.notes = append(b.notes, b.newProblem(at, key, fmt.Sprintf(format, args...)))
}

// bareSections lists the sections of [defaults] that aivm 0.3's manual prints without "defaults.".
var bareSections = map[string]bool{"firewall": true, "sync": true}

// bareSections reads the sections that aivm 0.3's manual prints at the top level as those of
// [defaults], which have priority, and reports it.
func (b *binder) bareSections(c *Config) {
	defaults := reflect.ValueOf(&c.Defaults).Elem()
	for _, k := range b.doc.root.kids {
		if !bareSections[k.key] || k.shape != isTable {
			continue
		}
		own := "[[vms]]"
		if k.key == "firewall" {
			own = "[[networks]]"
		}
		i := fieldOf(defaults.Type(), k.key)
		b.table(defaults.Field(i), k, k.key, k.key)
		note := fmt.Sprintf("[%s] is read as [defaults.%[1]s], for what is created from now on; records in %s have sections of their own", k.key, own)
		proper := b.doc.root.child("defaults").sub(k.key)
		for _, kid := range k.kids {
			if proper != nil && proper.child(kid.key) != nil {
				note += fmt.Sprintf("; its %s is ignored, since [defaults.%s] has that too", kid.key, k.key)
				break
			}
		}
		p := b.newProblem(k.at, k.key, note)
		p.used = true
		b.notes = append(b.notes, p)
	}
}

// table sets the fields of struct v from table n. path is the key in messages ("vms[0].vm"), schema
// the same without indices ("vms.vm").
func (b *binder) table(v reflect.Value, n *node, path, schema string) {
	t := v.Type()
	for _, k := range n.kids {
		key, skey := joinKey(path, bareOrQuoted(k.key)), joinKey(schema, k.key)
		if bareSections[skey] && k.shape == isTable {
			continue // read before
		}
		i := fieldOf(t, k.key)
		if i < 0 {
			if !retired[skey] {
				b.unknown = append(b.unknown, b.newProblem(k.at, key, unknownKey(t, k.key, schema)))
			}
			continue
		}
		b.field(v.Field(i), t.Field(i).Tag, k, key, skey)
	}
}

func joinKey(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func fieldOf(t reflect.Type, key string) int {
	for i := range t.NumField() {
		if name, tagged := t.Field(i).Tag.Lookup("toml"); tagged && name == key {
			return i
		}
	}
	return -1
}

func unknownKey(t reflect.Type, key, schema string) string {
	var known []string
	for i := range t.NumField() {
		if name, tagged := t.Field(i).Tag.Lookup("toml"); tagged {
			known = append(known, name)
		}
	}
	near := nearest(key, known)
	if schema == "" && fieldOf(reflect.TypeFor[Defaults](), key) >= 0 {
		near = "defaults." + key
	}
	if near == "" {
		return fmt.Sprintf("unknown key %q", key)
	}
	return fmt.Sprintf("unknown key %q; did you mean %q?", key, near)
}

func (b *binder) field(v reflect.Value, tag reflect.StructTag, n *node, key, schema string) {
	switch v.Kind() {
	case reflect.Struct:
		if n.shape != isTable {
			b.wrong(n.at, key, "must be a table, not %s", typeName(n))
			return
		}
		b.table(v, n, key, schema)
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Struct {
			if tag.Get("list") == "named" {
				b.namedTables(v, n, key, schema)
			} else {
				b.recordList(v, n, key, schema)
			}
			return
		}
		b.list(v, tag, n, key)
	case reflect.String:
		s, ok := n.val.(string)
		if n.shape != isLeaf || !ok {
			b.wrong(n.valueAt(), key, "must be a string, not %s", typeName(n))
			return
		}
		b.check(tag, n.valueAt(), key, s)
		v.SetString(s)
	case reflect.Bool:
		x, ok := n.val.(bool)
		if !ok {
			b.wrong(n.valueAt(), key, "must be true or false, not %s", typeName(n))
			return
		}
		v.SetBool(x)
	case reflect.Int:
		x, ok := n.val.(int64)
		if !ok {
			b.wrong(n.valueAt(), key, "must be an integer, not %s", typeName(n))
			return
		}
		if x < 0 || x > maxCount {
			b.wrong(n.valueAt(), key, "must be from 0 to %d, not %d", maxCount, x)
			return
		}
		v.SetInt(x)
	}
}

func (n *node) valueAt() int {
	if n.origin == inlined {
		return n.start
	}
	return n.at
}

func (b *binder) check(tag reflect.StructTag, at int, key, s string) {
	if rule := checks[tag.Get("check")]; rule != nil {
		if msg := rule(s); msg != "" {
			b.wrong(at, key, "%s", msg)
		}
	}
}

func (b *binder) list(v reflect.Value, tag reflect.StructTag, n *node, key string) {
	if s, ok := n.val.(string); ok && n.shape == isLeaf && tag.Get("list") == "or one" {
		b.check(tag, n.valueAt(), key, s)
		v.Set(reflect.ValueOf([]string{s}))
		return
	}
	if n.shape != isList {
		b.wrong(n.valueAt(), key, "must be a list, not %s", typeName(n))
		return
	}
	out := make([]string, 0, len(n.kids))
	for i, k := range n.kids {
		ekey := key + "[" + strconv.Itoa(i) + "]"
		s, ok := k.val.(string)
		if x, isInt := k.val.(int64); isInt && tag.Get("list") == "ports" {
			s, ok = strconv.FormatInt(x, 10), true
		}
		if !ok {
			b.wrong(k.valueAt(), ekey, "must be a string, not %s", typeName(k))
			continue
		}
		b.check(tag, k.valueAt(), ekey, s)
		out = append(out, s)
	}
	v.Set(reflect.ValueOf(out))
}

func (b *binder) recordList(v reflect.Value, n *node, key, schema string) {
	if n.shape != isList {
		b.wrong(n.valueAt(), key, "must be a list of tables ([[%s]]), not %s", key, typeName(n))
		return
	}
	for i, k := range n.kids {
		ekey := key + "[" + strconv.Itoa(i) + "]"
		rec := emptyRecord(v.Type().Elem())
		if k.shape != isTable {
			b.wrong(k.valueAt(), ekey, "must be a table, not %s", typeName(k))
		} else {
			b.table(rec, k, ekey, schema)
		}
		// Appended even when wrong, so that indices stay those of the file.
		v.Set(reflect.Append(v, rec))
	}
}

// emptyRecord returns a settable record of type t with the values of absent keys.
func emptyRecord(t reflect.Type) reflect.Value {
	v := reflect.New(t).Elem()
	switch t {
	case reflect.TypeFor[Network]():
		v.Set(reflect.ValueOf(emptyNetwork()))
	case reflect.TypeFor[VM]():
		v.Set(reflect.ValueOf(emptyVM()))
	case reflect.TypeFor[Attachment]():
		v.Set(reflect.ValueOf(emptyAttachment()))
	case reflect.TypeFor[Template]():
		v.Set(reflect.ValueOf(NewTemplate("")))
	}
	return v
}

// records checks that records have the names that identify them and that these are unique.
func (b *binder) records(c *Config) {
	seen := map[string]int{}
	for i, n := range b.recordNodes("networks", len(c.Networks)) {
		r, key := &c.Networks[i], fmt.Sprintf("networks[%d]", i)
		b.names(n, key, "network", &r.Name, &r.Network.Name, seen)
	}
	seen = map[string]int{}
	for i, n := range b.recordNodes("vms", len(c.VMs)) {
		r, key := &c.VMs[i], fmt.Sprintf("vms[%d]", i)
		b.names(n, key, "vm", &r.Name, &r.VM.Name, seen)
		if r.Name != "" && storedName.MatchString(r.Name) && ValidateVMName(r.Name) != nil {
			b.note(n.at, key+".name", "%q is a name that only aivm 0.3 allowed; host names and ssh aliases can only contain a-z, 0-9 and '-'", r.Name)
		}
		if r.VM.AllowPasswordLogin {
			b.note(n.at, key+".vm.allow_password_login", "has no effect: guests accept SSH keys only")
		}
	}
	if c.Defaults.VM.AllowPasswordLogin {
		b.note(b.doc.root.child("defaults").at, "defaults.vm.allow_password_login", "has no effect: guests accept SSH keys only")
	}
	seen = map[string]int{}
	for i, n := range b.recordNodes("attachments", len(c.Attachments)) {
		a, key := &c.Attachments[i], fmt.Sprintf("attachments[%d]", i)
		if n.shape != isTable || b.missing(n, key, "host_path", a.HostPath) || b.missing(n, key, "vm_name", a.VMName) {
			continue
		}
		id := a.VMName + "\x00" + filepath.Clean(a.HostPath)
		if line, twice := seen[id]; twice {
			b.note(n.at, key, "this folder is already attached to VM %q on line %d", a.VMName, line)
			continue
		}
		seen[id], _ = b.doc.position(n.at)
	}
}

func (b *binder) recordNodes(key string, want int) []*node {
	n := b.doc.root.child(key)
	if n == nil || len(n.kids) != want {
		return nil
	}
	return n.kids
}

// missing reports whether an identifying key has no value, and records a problem if it is absent or
// empty. A value of the wrong type has its problem recorded before.
func (b *binder) missing(n *node, path, key, value string) bool {
	if k := n.child(key); k == nil {
		b.wrong(n.at, path+"."+key, "is missing")
	} else if s, ok := k.val.(string); ok && s == "" && key != "host_path" {
		b.wrong(k.valueAt(), path+"."+key, "is empty")
	}
	return value == ""
}

// names checks the two names of a record, its own and that of its section (vms.name and
// vms.vm.name). If one is absent, it is set to the other.
func (b *binder) names(n *node, key, section string, name, inner *string, seen map[string]int) {
	if n.shape != isTable {
		return
	}
	hasInner := false
	if s := n.child(section); s != nil {
		hasInner = s.child("name") != nil
	}
	if *name == "" && hasInner {
		*name = *inner
	}
	if *name == "" {
		b.missing(n, key, "name", "")
		return
	}
	if !hasInner || *inner == "" {
		*inner = *name
	}
	if *inner != *name {
		b.note(n.at, key+"."+section+".name", "is %q, but the record is called %q", *inner, *name)
	}
	if line, twice := seen[*name]; twice {
		b.wrong(n.at, key+".name", "%q is already the name of another record, on line %d", *name, line)
		return
	}
	seen[*name], _ = b.doc.position(n.at)
}

func typeName(n *node) string {
	switch n.shape {
	case isTable:
		return "a table"
	case isList:
		if n.origin == headed {
			return "a list of tables"
		}
		return "a list"
	}
	switch n.val.(type) {
	case string:
		return "a string"
	case bool:
		return "true or false"
	case int64:
		return "an integer"
	case float64:
		return "a decimal number"
	case time.Time:
		return "a date"
	}
	return "another type"
}

// sortProblems puts problems into the order of the file.
func sortProblems(ps []Problem) []Problem {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	return ps
}
