package config

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"unicode"

	"aivm.dev/aivm/internal/lazyre"
)

var bareKey = lazyre.New(`^[A-Za-z0-9_-]+$`)

// bareOrQuoted returns a key in TOML notation, quoted if necessary.
func bareOrQuoted(key string) string {
	if bareKey.MatchString(key) {
		return key
	}
	return quote(key)
}

func dottedKey(keys []string) string {
	parts := make([]string, len(keys))
	for i, k := range keys {
		parts[i] = bareOrQuoted(k)
	}
	return strings.Join(parts, ".")
}

// quote returns s, which is valid UTF-8, as a TOML basic string. Unprintable characters (control
// characters, but also marks that reorder text on a screen) are escaped.
func quote(s string) string {
	var b strings.Builder
	b.Grow(len(s) + 2)
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\b':
			b.WriteString(`\b`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\f':
			b.WriteString(`\f`)
		case r == '\r':
			b.WriteString(`\r`)
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r > 0xffff:
			fmt.Fprintf(&b, `\U%08x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

var plainNumber = lazyre.New(`^(0|[1-9][0-9]{0,8})$`)

// element returns a list element in TOML notation: a number if numbers is set and s is one, else a
// string.
func element(s string, numbers bool) string {
	if numbers && plainNumber.MatchString(s) {
		return s
	}
	return quote(s)
}

// encodeValue returns a string, bool, int or list of strings in TOML notation.
func encodeValue(v reflect.Value, tag reflect.StructTag) string {
	switch v.Kind() {
	case reflect.String:
		return quote(v.String())
	case reflect.Bool:
		return strconv.FormatBool(v.Bool())
	case reflect.Int:
		return strconv.FormatInt(v.Int(), 10)
	case reflect.Slice:
		parts := make([]string, v.Len())
		for i := range parts {
			parts[i] = element(v.Index(i).String(), tag.Get("list") == "ports")
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	panic(fmt.Sprintf("config: type %s is not supported in the schema", v.Type()))
}

// A pair is a key and value to write in a record.
type pair struct {
	table []string // below the record
	key   string
	value string
}

// pairs returns the keys to write for a new record or section v, in the order of the schema, keys
// before sub-tables: those that differ from base and those whose write tag requires it; all keys if
// every is set.
func pairs(v, base reflect.Value, table []string, every bool) []pair {
	var out, below []pair
	t := v.Type()
	for i := range t.NumField() {
		f, tag := v.Field(i), t.Field(i).Tag
		key, tagged := tag.Lookup("toml")
		if !tagged {
			continue
		}
		if f.Kind() == reflect.Struct {
			sub := append(append([]string{}, table...), key)
			below = append(below, pairs(f, base.Field(i), sub, every)...)
			continue
		}
		forced := every
		switch tag.Get("write") {
		case "always":
			forced = true
		case "nonzero":
			// 0 means "choose"; 0.3 has no use for it.
			forced = !f.IsZero()
		case "changed":
			forced = false
		}
		if forced || !same(f, base.Field(i)) {
			out = append(out, pair{table: table, key: key, value: encodeValue(f, tag)})
		}
	}
	return append(out, below...)
}

// recordText returns a record in the layout of 0.3: [[vms]], then its sub-tables as [vms.vm].
func recordText(list string, ps []pair, eol string) string {
	var b strings.Builder
	b.WriteString("[[" + list + "]]" + eol)
	b.WriteString(sectionsText([]string{list}, ps, eol))
	return b.String()
}

// sectionsText returns the lines of pairs, with a header where the table changes.
func sectionsText(prefix []string, ps []pair, eol string) string {
	var b strings.Builder
	last := ""
	for _, p := range ps {
		if head := dottedKey(append(append([]string{}, prefix...), p.table...)); len(p.table) > 0 && head != last {
			b.WriteString(eol + "[" + head + "]" + eol)
			last = head
		}
		b.WriteString(bareOrQuoted(p.key) + " = " + p.value + eol)
	}
	return b.String()
}

// inlineRecord returns a record as one inline table, for files whose lists are written inline.
func inlineRecord(ps []pair) string {
	var parts []string
	for i := 0; i < len(ps); {
		if len(ps[i].table) == 0 {
			parts = append(parts, bareOrQuoted(ps[i].key)+" = "+ps[i].value)
			i++
			continue
		}
		table, inner := ps[i].table, []string(nil)
		for i < len(ps) && dottedKey(ps[i].table) == dottedKey(table) {
			inner = append(inner, bareOrQuoted(ps[i].key)+" = "+ps[i].value)
			i++
		}
		parts = append(parts, dottedKey(table)+" = { "+strings.Join(inner, ", ")+" }")
	}
	return "{ " + strings.Join(parts, ", ") + " }"
}
