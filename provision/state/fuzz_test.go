package state

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"aivm.dev/aivm/sshcfg"
)

// FuzzInstance: a VM's state file is read, or refused with an error that names it. What is
// written is read back, with the keys that a later aivm added. A file of a later format is
// never overwritten.
func FuzzInstance(f *testing.F) {
	f.Add([]byte(`{"schema":1,"uuid":"u","mac":"52:54:00:01:02:03","address":"10.77.0.50","user":"agent","identities":["/k"],"seed_left":true,"future":{"a":[1]}}`))
	f.Add([]byte(`{"schema":2,"address":7}`))
	f.Add([]byte(`{"schema":1,"address":"x"}`))
	f.Add([]byte(`{"SCHEMA":1,"Address":"::1","address":"10.0.0.1"}`))
	f.Add([]byte(`null`))
	d := Dir{Layout: sshcfg.DefaultLayout(f.TempDir(), func(string) string { return "" })}
	path := d.InstancePath("vm")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		inst, err := d.Instance("vm")
		if err != nil {
			if inst != nil || !strings.Contains(err.Error(), path) {
				t.Errorf("%+v, %v", inst, err)
			}
			if errors.Is(err, ErrLater) {
				if err := d.SaveInstance("vm", Instance{Address: "10.0.0.1"}); !errors.Is(err, ErrLater) {
					t.Errorf("overwritten: %v", err)
				}
				if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, data) {
					t.Errorf("%q became %q: %v", data, now, err)
				}
			}
			return
		}
		if _, err := netip.ParseAddr(inst.Address); err != nil {
			t.Errorf("address %q", inst.Address)
		}
		inst.SeedLeft = !inst.SeedLeft
		if err := d.SaveInstance("vm", *inst); err != nil {
			t.Fatal(err)
		}
		back, err := d.Instance("vm")
		if err != nil {
			t.Fatal(err)
		}
		if inst.Schema = instanceSchema; len(back.unknownKeys) != len(inst.unknownKeys) {
			t.Errorf("%v became %v", inst.unknownKeys, back.unknownKeys)
		}
		inst.unknownKeys, back.unknownKeys = nil, nil
		if !reflect.DeepEqual(inst, back) {
			t.Errorf("%+v became %+v", inst, back)
		}
	})
}
