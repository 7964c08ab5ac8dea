package config

import (
	"path/filepath"
	"reflect"
	"strconv"
	"unicode/utf8"

	"aivm.dev/aivm/internal/ui"
)

func formatInt(n int64) string { return strconv.FormatInt(n, 10) }

// An editor changes the bytes of a config file so that they decode to another Config, one change at
// a time.
type editor struct {
	doc *document
}

func newEditor(data []byte) (*editor, error) {
	doc, err := parse(data)
	if err != nil {
		return nil, err
	}
	return &editor{doc: doc}, nil
}

func (e *editor) do(edits []edit) error {
	doc, err := parse(e.doc.apply(edits))
	if err != nil {
		return err
	}
	e.doc = doc
	return nil
}

// rewrite edits data, which decodes to have, so that it decodes to want. It also returns the Config
// to expect when the result is read: want with the records in the order of the file.
func rewrite(data []byte, have, want *Config) ([]byte, *Config, error) {
	e, err := newEditor(data)
	if err != nil {
		return nil, nil, err
	}
	expect := want.Clone()
	from, to := reflect.ValueOf(have).Elem(), reflect.ValueOf(want).Elem()
	if err := e.fields(nil, from, to); err != nil {
		return nil, nil, err
	}
	t := from.Type()
	for i := range t.NumField() {
		key := t.Field(i).Tag.Get("toml")
		f := from.Field(i)
		if f.Kind() != reflect.Slice {
			continue
		}
		edit := e.records
		if t.Field(i).Tag.Get("list") == "named" {
			edit = e.tables
		}
		order, err := edit(key, f, to.Field(i))
		if err != nil {
			return nil, nil, err
		}
		reflect.ValueOf(&expect).Elem().Field(i).Set(order)
	}
	return e.doc.data, &expect, nil
}

// fields sets the keys that differ between two structs, whose table is at path. It skips lists of
// records; see records.
func (e *editor) fields(path []any, from, to reflect.Value) error {
	t := from.Type()
	for i := range t.NumField() {
		f, g, tag := from.Field(i), to.Field(i), t.Field(i).Tag
		key, tagged := tag.Lookup("toml")
		var err error
		switch {
		case same(f, g), !tagged:
		case f.Kind() == reflect.Struct:
			err = e.fields(append(append([]any{}, path...), key), f, g)
		case f.Kind() != reflect.Slice:
			err = e.do(e.doc.put(path, key, encodeValue(g, tag)))
		case f.Type().Elem().Kind() == reflect.String:
			err = e.list(path, key, g, tag)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// list changes a list of strings element by element, so that comments between the elements stay. If
// that is not possible it writes a new list.
func (e *editor) list(path []any, key string, want reflect.Value, tag reflect.StructTag) error {
	wanted := want.Interface().([]string)
	at := append(append([]any{}, path...), key)
	n, rest := e.doc.find(at)
	if len(rest) > 0 || n.shape != isList {
		return e.do(e.doc.put(path, key, encodeValue(want, tag)))
	}
	have, numbers, ok := n.listStrings()
	if len(have) == 0 {
		numbers = true
	}
	numbers = numbers && tag.Get("list") == "ports"
	out, added := listSteps(have, wanted)
	if !ok || len(have) > 0 && len(out) == len(have) {
		return e.do(e.doc.put(path, key, joinElements(wanted, numbers)))
	}
	for i := len(out) - 1; i >= 0; i-- {
		n, _ = e.doc.find(at)
		if err := e.do([]edit{e.doc.removeElement(n, out[i])}); err != nil {
			return err
		}
	}
	for _, s := range added {
		n, _ = e.doc.find(at)
		if err := e.do(e.doc.appendElement(n, element(s, numbers))); err != nil {
			return err
		}
	}
	return nil
}

// recordID returns the values that identify a record; all others may change.
func recordID(v reflect.Value) string {
	switch r := v.Interface().(type) {
	case Network:
		return r.Name
	case VM:
		return r.Name
	case Attachment:
		return r.VMName + "\x00" + filepath.Clean(r.HostPath)
	case Template:
		return r.Name
	}
	return ""
}

// pairUp returns, for each record of have, the index of the record with the same identity in want
// (-1: none), and the indices of the records of want that are new. Records with equal identities
// are paired in order.
func pairUp(have, want reflect.Value) (became []int, fresh []int) {
	open := map[string][]int{}
	for j := range want.Len() {
		id := recordID(want.Index(j))
		open[id] = append(open[id], j)
	}
	taken := make([]bool, want.Len())
	for i := range have.Len() {
		id := recordID(have.Index(i))
		j := -1
		if unpaired := open[id]; len(unpaired) > 0 {
			j, open[id] = unpaired[0], unpaired[1:]
			taken[j] = true
		}
		became = append(became, j)
	}
	for j, t := range taken {
		if !t {
			fresh = append(fresh, j)
		}
	}
	return became, fresh
}

// records changes, removes and appends the records of one list, and returns the records in their
// resulting order in the file.
func (e *editor) records(list string, have, want reflect.Value) (reflect.Value, error) {
	became, fresh := pairUp(have, want)
	order := reflect.MakeSlice(have.Type(), 0, want.Len())
	var removed []int
	for i, j := range became {
		if j < 0 {
			removed = append(removed, i)
			continue
		}
		order = reflect.Append(order, want.Index(j))
		if err := e.fields([]any{list, i}, have.Index(i), want.Index(j)); err != nil {
			return order, err
		}
	}
	if err := e.remove(list, removed); err != nil {
		return order, err
	}
	for _, j := range fresh {
		order = reflect.Append(order, want.Index(j))
	}
	return order, e.add(list, want, fresh)
}

func (e *editor) remove(list string, removed []int) error {
	if len(removed) == 0 {
		return nil
	}
	n, _ := e.doc.find([]any{list})
	if n.origin == headed {
		var recs []*node
		for _, i := range removed {
			recs = append(recs, n.kids[i])
		}
		return e.do(e.doc.removeRecords(recs))
	}
	for i := len(removed) - 1; i >= 0; i-- {
		n, _ = e.doc.find([]any{list})
		if err := e.do([]edit{e.doc.removeElement(n, removed[i])}); err != nil {
			return err
		}
	}
	return nil
}

func (e *editor) add(list string, want reflect.Value, fresh []int) error {
	text := ""
	for _, j := range fresh {
		rec := want.Index(j)
		ps := pairs(rec, emptyRecord(rec.Type()), nil, false)
		n, rest := e.doc.find([]any{list})
		if len(rest) == 0 && n.origin == inlined {
			if err := e.do(e.doc.appendElement(n, inlineRecord(ps))); err != nil {
				return err
			}
			continue
		}
		if text != "" {
			text += e.doc.eol
		}
		text += recordText(list, ps, e.doc.eol)
	}
	if text == "" {
		return nil
	}
	n, rest := e.doc.find([]any{list})
	at := len(e.doc.data)
	if len(rest) == 0 {
		at = e.doc.endOf(n)
	}
	return e.do([]edit{e.doc.blockAt(at, text)})
}

// storable returns an error that names the key if v contains a string that TOML cannot hold.
func storable(v reflect.Value, key string) error {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if err := storable(v.Field(i), joinKey(key, v.Type().Field(i).Tag.Get("toml"))); err != nil {
				return err
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			if err := storable(v.Index(i), key+"["+strconv.Itoa(i)+"]"); err != nil {
				return err
			}
		}
	case reflect.String:
		if s := v.String(); !utf8.ValidString(s) {
			return ui.Refused("cannot store %s: %q is not valid UTF-8", key, s).Hint(ui.Remark("rename the file or folder: its name must be valid UTF-8"))
		}
	}
	return nil
}
