package provision

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"aivm.dev/aivm/sshcfg"
)

// FuzzInstance: a VM's state file is read or refused by its name; what is
// written is read back, with what a later aivm added; one of a later format is
// never written over.
func FuzzInstance(f *testing.F) {
	f.Add([]byte(`{"schema":1,"uuid":"u","mac":"52:54:00:01:02:03","address":"10.77.0.50","user":"agent","identities":["/k"],"seed_left":true,"future":{"a":[1]}}`))
	f.Add([]byte(`{"schema":2,"address":7}`))
	f.Add([]byte(`{"schema":1,"address":"x"}`))
	f.Add([]byte(`{"SCHEMA":1,"Address":"::1","address":"10.0.0.1"}`))
	f.Add([]byte(`null`))
	l := sshcfg.DefaultLayout(f.TempDir(), func(string) string { return "" })
	path := instancePath(l, "vm")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		in, err := loadInstance(l, "vm")
		if err != nil {
			if in != nil || !strings.Contains(err.Error(), path) {
				t.Errorf("%+v, %v", in, err)
			}
			if errors.Is(err, errLater) {
				if err := saveInstance(l, "vm", Instance{Address: "10.0.0.1"}); !errors.Is(err, errLater) {
					t.Errorf("written over: %v", err)
				}
				if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, data) {
					t.Errorf("%q became %q: %v", data, now, err)
				}
			}
			return
		}
		if _, err := netip.ParseAddr(in.Address); err != nil {
			t.Errorf("address %q", in.Address)
		}
		in.SeedLeft = !in.SeedLeft
		if err := saveInstance(l, "vm", *in); err != nil {
			t.Fatal(err)
		}
		back, err := loadInstance(l, "vm")
		if err != nil {
			t.Fatal(err)
		}
		if in.Schema = instanceSchema; len(back.others) != len(in.others) {
			t.Errorf("%v became %v", in.others, back.others)
		}
		in.others, back.others = nil, nil
		if !reflect.DeepEqual(in, back) {
			t.Errorf("%+v became %+v", in, back)
		}
	})
}

// FuzzClock: a guest's clock is a time or no reason to set it, and how far it
// is off says nothing it did not say.
func FuzzClock(f *testing.F) {
	f.Add([]byte("1800000000.000000000\n"))
	f.Add([]byte("1.-1"))
	f.Add([]byte("999999999999.999999999"))
	sent := time.Unix(1_800_000_000, 0)
	got := sent.Add(3 * time.Second)
	f.Fuzz(func(t *testing.T, out []byte) {
		off := clockOff(out, sent, got)
		if off == 0 {
			return
		}
		at := sent
		if off > 0 {
			at = got
		}
		said := at.Add(off).Unix()
		whole, _, _ := strings.Cut(strings.TrimSpace(string(out)), ".")
		if n, err := strconv.ParseInt(whole, 10, 64); off > -1<<62 && off < 1<<62 && (err != nil || n != said) {
			t.Errorf("%q is %s off, so it said %d", out, off, said)
		}
	})
}
