package settingsync

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMerge(t *testing.T) {
	for _, c := range []struct{ name, base, host, guest, want, kept string }{
		{"no file", "", "{\n\t// why\n\t\"a\": 1,\n}\n", "", "{\n\t// why\n\t\"a\": 1,\n}\n", ""},
		{"only a comment", "", "{\"a\":1}", "// mine\n", "// mine\n{\"a\":1}", ""},
		{"new key", "{}", "{\"a\":1,\"b\":2}", "{\n  \"a\": 1 // one\n}\n", "{\n  \"a\": 1, // one\n  \"b\": 2\n}\n", ""},
		{"new key behind a trailing comma and a comment", "{}", `{"b":[1, 2]}`, "{\n    \"a\": 1,\n    // end\n}", "{\n    \"a\": 1,\n    // end\n    \"b\": [1, 2]\n}", ""},
		{"empty object", "", `{"a":1}`, "{}", "{\n    \"a\": 1\n}", ""},
		{"only comments inside", "", `{"a":1}`, "{ /* x */ }", "{ /* x */\n    \"a\": 1\n}", ""},
		{"host changed", `{"a":1}`, `{"a":2}`, "{\n  \"a\": 1, // c\n}", "{\n  \"a\": 2, // c\n}", ""},
		{"guest changed", `{"a":1}`, `{"a":1}`, `{"a":3}`, `{"a":3}`, ""},
		{"both changed", `{"a":1}`, `{"a":2}`, `{"a":3}`, `{"a":3}`, "a"},
		{"both the same", `{"a":1}`, `{"a":2}`, `{"a":2}`, `{"a":2}`, ""},
		{"guest's own from before", "", `{"a":2}`, `{"a":3}`, `{"a":3}`, "a"},
		{"host removed", `{"a":1,"b":2}`, `{"b":2}`, "{\n  // about a\n  \"a\": 1,\n  \"b\": 2\n}", "{\n  // about a\n  \"b\": 2\n}", ""},
		{"host removed the last", `{"a":1,"b":2}`, `{"a":1}`, "{\n  \"a\": 1,\n  \"b\": 2\n}", "{\n  \"a\": 1\n}", ""},
		{"host removed all", `{"a":1}`, `{}`, `{"a":1}`, `{}`, ""},
		{"host removed, guest changed", `{"a":1}`, `{}`, `{"a":2}`, `{"a":2}`, "a"},
		{"guest removed", `{"a":1}`, `{"a":1}`, `{}`, `{}`, ""},
		{"guest removed, host changed", `{"a":1}`, `{"a":2}`, `{}`, `{}`, "a"},
		{"CRLF", `{"a":1}`, "{\"a\":{\"x\":1,\n\"y\":2},\"b\":true}", "{\r\n\t\"a\": 1\r\n}\r\n", "{\r\n\t\"a\": {\"x\":1,\r\n\t\"y\":2},\r\n\t\"b\": true\r\n}\r\n", ""},
		{"BOM", "", `{"a":1}`, "\ufeff{\"b\":2}", "\ufeff{\"b\":2,\n    \"a\": 1\n}", ""},
		{"duplicates count last", `{"a":1}`, `{"a":5}`, "{\"a\": 0, \"a\": 1}", "{\"a\": 0, \"a\": 5}", ""},
		{"duplicates go together", `{"a":1}`, `{}`, "{\n\"a\": 0,\n\"b\": 1,\n\"a\": 1\n}", "{\n\"b\": 1\n}", ""},
		{"duplicates of the host", `{}`, `{"a":1,"a":2}`, "{\n}", "{\n    \"a\": 2\n}", ""},
		{"language block", `{"[python]":{"t":1}}`, `{"[python]":{"t":2,"n":true}}`, "{\n  \"[python]\": {\n    \"t\": 1,\n    \"mine\": 0\n  }\n}", "{\n  \"[python]\": {\n    \"t\": 2,\n    \"mine\": 0,\n    \"n\": true\n  }\n}", ""},
		{"nested conflict", `{"x":{"t":1}}`, `{"x":{"t":2}}`, `{"x":{"t":3}}`, `{"x":{"t":3}}`, "x / t"},
		{"object over a value", `{"x":1}`, "{\n\t\"x\": {\n\t\t\"t\": 2\n\t}\n}", "{\n  \"x\": 1\n}", "{\n  \"x\": {\n  \t\"t\": 2\n  }\n}", ""},
		{"numbers as written", `{"a":1.0}`, `{"a":1.0}`, `{"a": 1.0}`, `{"a": 1.0}`, ""},
		{"key with signs", `{}`, `{"a\"<&>é\u2028":1}`, `{}`, "{\n    \"a\\\"<&>é\\u2028\": 1\n}", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := Merge(c.base, c.host, c.guest)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, m.Text); d != "" || strings.Join(m.Kept, ",") != c.kept || m.Changed != (m.Text != c.guest) {
				t.Errorf("kept %q; -want +got:\n%s", m.Kept, d)
			}
		})
	}
}

func TestMergeOfALongFile(t *testing.T) {
	var base, host, guest strings.Builder
	line := func(b *strings.Builder, i, v int) { fmt.Fprintf(b, "  // about %d\n  \"k.%d\": %d,\n", i, i, v) }
	for _, b := range []*strings.Builder{&base, &host, &guest} {
		b.WriteString("{\n")
	}
	for i := range 2500 {
		line(&base, i, 0)
		if i%5 != 0 {
			line(&host, i, i%2)
		}
		line(&guest, i, 0)
	}
	for i := 2500; i < 5000; i++ {
		line(&host, i, 1)
	}
	for _, b := range []*strings.Builder{&base, &host, &guest} {
		b.WriteString("}\n")
	}
	m, err := Merge(base.String(), host.String(), guest.String())
	if err != nil || len(m.Kept) != 0 {
		t.Fatal(err, m.Kept)
	}
	if n := strings.Count(m.Text, "// about"); n != 2500 {
		t.Errorf("%d of the guest's comments are left", n)
	}
	same(t, m.Text, host.String())
}

// same checks that two files have equal content.
func same(t *testing.T, a, b string) {
	t.Helper()
	x, err1 := parseObject(a)
	y, err2 := parseObject(b)
	if err1 != nil || err2 != nil {
		t.Fatalf("%v %v\n%s", err1, err2, a)
	}
	if x.plain(a) != y.plain(b) {
		t.Errorf("%s\nis not\n%s", x.plain(a), y.plain(b))
	}
}

func TestSyntaxErrors(t *testing.T) {
	for text, want := range map[string]string{
		"{\n  \"a\": 1\n  \"b\": 2\n}": "line 3, column 3",
		"[]":                           "line 1, column 1",
		"{\"a\": tru}":                 "line 1, column 7",
		"{\"é\": 'x'}":                 "line 1, column 7",
		"{\"a\": \"x\ny\"}":            "line 1, column 9",
		"{a: 1}":                       "line 1, column 2",
		"{\"a\" 1}":                    "line 1, column 6",
		"{} x":                         "line 1, column 4",
		"{\"a\": [1 2]}":               "line 1, column 10",
		"{\"a\": 01}":                  "line 1, column 7",
		"/* x":                         "line 1, column 1",
		"{,}":                          "line 1, column 2",
		"\ufeff{\n?":                   "line 2, column 1",
		strings.Repeat("{\"a\":", 500): "nested",
		"{\"a\":\"\\q\"}":              "line 1, column 6",
	} {
		_, err := Merge("", "{}", text)
		var se *SyntaxError
		if !errors.As(err, &se) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

// TestTextsOfEditors: texts that editors accept but hujson alone refuses, and texts on which hujson
// overflows the stack.
func TestTextsOfEditors(t *testing.T) {
	for text, want := range map[string]string{
		"{\"a\": 1} // end":                                   `{"a":1}`,
		"// caf\xe9\n{\"a\": 1, /* \xff */}":                  `{"a":1}`,
		"{\"a\": 1 // \u2028\n}":                              `{"a":1}`,
		"{ // old Mac\r\"a\": \"//\", \"b\": \"/*\" /* */\r}": `{"a":"//","b":"/*"}`,
		"\ufeff{\"a\": [1, {\"b\": 2,},],}":                   `{"a":[1,{"b":2}]}`,
		"{\"\\\"\": 1, \"\": {}, \"\xff\": []}":               "{\"\":{},\"\\\"\":1,\"\ufffd\":[]}",
	} {
		n, err := parseObject(text)
		if err != nil || n.plain(text) != want {
			t.Errorf("%q: %v %v", text, err, n)
		} else if got := n.plain(text); got != want {
			t.Errorf("%q is read as %s", text, got)
		}
	}
	for _, deep := range []string{"{\"a\":" + strings.Repeat("[", 1<<20), strings.Repeat("{\"a\":", 1<<18), strings.Repeat("}]", 1<<19) + strings.Repeat("[", 1<<20)} {
		if _, err := parseObject(deep); err == nil {
			t.Error("nested without a bound")
		}
	}
}

func TestFilterSettings(t *testing.T) {
	text := `// mine
{
	"editor.tabSize": 4, // four
	"remote.SSH.configFile": "~/x",
	"window.zoomLevel": 1,
	"update.mode": "none",
	"terminal.integrated.profiles.linux": { "bash": { "path": "/bin/bash" } },
	"http.proxy": "http://127.0.0.1:3128",
	"foo.executablePath": "x",
	"bar.toolPath": "/opt/x",
	"baz.path": "bin/x",
	"go.goroot": "/usr/lib/go",
	"x": "/home/me/y",
	"wanted.path": "/opt/wanted",
	"mine.secret": 1,
	"[python]": {
		"editor.tabSize": 8
	}
}
`
	f, err := FilterSettings(text, SettingsRules{Home: "/home/me", Include: []string{"wanted.*"}, Exclude: []string{"mine.*"}})
	if err != nil {
		t.Fatal(err)
	}
	want := "// mine\n{\n\t\"editor.tabSize\": 4, // four\n\t\"baz.path\": \"bin/x\",\n\t\"wanted.path\": \"/opt/wanted\",\n\t\"[python]\": {\n\t\t\"editor.tabSize\": 8\n\t}\n}\n"
	if d := cmp.Diff(want, f.Text); d != "" {
		t.Error(d)
	}
	if len(f.LeftOut) != 10 {
		t.Errorf("%q", f.LeftOut)
	}
	// A proxy that the guest can reach is sent.
	if f, err := FilterSettings(`{"http.proxy": "http://proxy.work.test:3128"}`, SettingsRules{}); err != nil || f.Plain != `{"http.proxy":"http://proxy.work.test:3128"}` {
		t.Errorf("%v %q", err, f.Plain)
	}
	// A secret in a comment removes all comments.
	f, err = FilterSettings("{\n// \"t\": \"gh"+"p_aB3dE5fG7hI9jK1lM3nO5pQ7rS9tU1vW3xY5\"\n\"a\": 1}", SettingsRules{})
	if err != nil || f.Text != "{\"a\":1}\n" {
		t.Errorf("%v %q", err, f.Text)
	}
}

// FuzzMerge: for any three texts a merge ends and its result parses, a second merge with the host's
// text as base changes nothing, and valid JSON is read like encoding/json does.
func FuzzMerge(f *testing.F) {
	f.Add(`{"a":1}`, "{\"a\":2,\"b\":{\"c\":[1,2]}}", "{\n// x\n\"a\":1,\"b\":{\"d\":0},}")
	f.Add(``, "{\"a\":1}", "")
	f.Add(`{"a":{}}`, "{}", "{\"a\":{},\r\n}")
	f.Add(`{}`, `{"a":1}`, "{\"b\":1 /*c*/, \"a\":2\n, \"c\":3}")
	f.Fuzz(func(t *testing.T, base, host, guest string) {
		if n, err := parseObject(guest); err == nil && n.start != n.end {
			var a, b any
			if json.Unmarshal([]byte(guest), &a) == nil {
				if err := json.Unmarshal([]byte(n.plain(guest)), &b); err != nil || !cmp.Equal(a, b) {
					t.Errorf("%q is read as %q: %v", guest, n.plain(guest), err)
				}
			}
		} else if err != nil && json.Valid([]byte(guest)) && strings.HasPrefix(strings.TrimSpace(guest), "{") && !strings.Contains(err.Error(), "nested") {
			t.Errorf("%q is valid: %v", guest, err)
		}
		if _, err := parseObject(base); base != "" && err != nil {
			return
		}
		fl, err := FilterSettings(host, SettingsRules{Home: "/home/me"})
		if err != nil || fl.Text == "" {
			return
		}
		m, err := Merge(base, fl.Text, guest)
		if err != nil {
			return
		}
		if _, err := parseObject(m.Text); err != nil {
			t.Fatalf("%q + %q + %q gave %q: %v", base, fl.Text, guest, m.Text, err)
		}
		again, err := Merge(fl.Plain, fl.Text, m.Text)
		if err != nil || again.Changed || len(again.Kept) > 0 {
			t.Errorf("a second merge of %q into %q: %v %+v", fl.Text, m.Text, err, again)
		}
	})
}
