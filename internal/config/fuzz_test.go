package config

import (
	"bytes"
	"os"
	"reflect"
	"strings"
	"testing"
)

func seeds(f *testing.F, add func(text string)) {
	b, err := os.ReadFile("testdata/v03.toml")
	if err != nil {
		f.Fatal(err)
	}
	for _, text := range []string{
		string(b),
		strings.ReplaceAll(string(b), "\n", "\r\n"),
		"",
		"\ufeff# x\n[[vms]]\nname='a'\n# c\n\n[vms.vm]\nx.y=1",
		"vms = [ {name='a', vm.cpus=1}, # c\n {name='b'} ]\nattachments=[]\ndefaults.vm.cpus = 0x4\n",
		"[[attachments]]\nhost_path='''/p'''\nvm_name=\"\\u0061\"\n[x]\n[[attachments]]\nhost_path='/q'\nvm_name='a'",
		"[defaults.firewall]\nallow_tcp_ports = [\n 1, # c\n '2-3'\n]\nallow_lan = [ # c\n]",
	} {
		add(text)
	}
}

// FuzzLoad checks that reading any bytes returns a Config or one error with a position in the file.
func FuzzLoad(f *testing.F) {
	seeds(f, func(text string) { f.Add([]byte(text)) })
	f.Fuzz(func(t *testing.T, data []byte) {
		doc, err := parse(data)
		if err != nil {
			fe := fileError("x", data, err)
			if lines := bytes.Count(data, []byte("\n")) + 1; fe.Line < 1 || fe.Line > lines || fe.Column < 1 {
				t.Errorf("%v is outside the file", fe)
			}
			return
		}
		c, b := bind(doc)
		if len(b.problems) > 0 {
			return
		}
		// Writing the values a file already has changes no byte.
		out, expect, err := rewrite(data, &c, &c)
		if err != nil || !bytes.Equal(out, data) || !same(reflect.ValueOf(c), reflect.ValueOf(*expect)) {
			t.Errorf("%v\n%q\n%q", err, data, out)
		}
		// Every item has one or more complete lines of its own.
		pos := doc.bom
		for _, it := range doc.items {
			if it.start < pos || it.end <= it.start || doc.lineStart(it.start) != it.start {
				t.Errorf("item %+v after %d in %q", it, pos, data)
			}
			pos = it.end
		}
	})
}

// FuzzUpdatePreserves checks one change: other bytes stay, the result decodes to the intended
// Config, and adding and removing a record restores the bytes.
func FuzzUpdatePreserves(f *testing.F) {
	seeds(f, func(text string) {
		for which := range mutations {
			f.Add([]byte(text), which, "/x\"\\\n\x7f\u202e", 3)
		}
	})
	f.Fuzz(func(t *testing.T, data []byte, which int, s string, n int) {
		checkMutation(t, data, which, s, n)
	})
}
