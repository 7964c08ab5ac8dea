package config

import (
	"errors"
	"strings"
	"testing"

	"aivm.dev/aivm/internal/ui"
)

func storeOf(active string, vms []string, attached ...string) *Config {
	c := DefaultConfig()
	c.ActiveVM = active
	for _, vm := range vms {
		c.UpsertVM(c.NewVM(vm, "net"))
	}
	for _, a := range attached {
		vm, path, _ := strings.Cut(a, ":")
		c.UpsertAttachment(Attachment{HostPath: path, VMName: vm})
	}
	return &c
}

func TestResolve(t *testing.T) {
	two := []string{"two", "one"}
	for name, tt := range map[string]struct {
		c            *Config
		folder, flag string
		want         Resolution
		err          string
	}{
		"flag":                        {storeOf("one", two, "one:/p"), "/p", "two", Resolution{"two", "flag"}, ""},
		"flag unknown":                {storeOf("one", two), "/p", "ten", Resolution{}, "VM not found in config store: ten"},
		"flag unknown, no VMs":        {storeOf("", nil), "/p", "ten", Resolution{}, "VM not found in config store: ten"},
		"folder over active":          {storeOf("one", two, "two:/p"), "/p", "", Resolution{"two", "folder"}, ""},
		"subfolder":                   {storeOf("one", two, "two:/p"), "/p/a/b", "", Resolution{"two", "folder"}, ""},
		"nearest parent":              {storeOf("one", two, "one:/p", "two:/p/a"), "/p/a/b", "", Resolution{"two", "folder"}, ""},
		"no prefix of a name":         {storeOf("one", two, "two:/p"), "/pq", "", Resolution{"one", "active"}, ""},
		"everything below the root":   {storeOf("one", two, "two:/"), "/p", "", Resolution{"two", "folder"}, ""},
		"unclean":                     {storeOf("one", two, "two:/p/"), "/p/./", "", Resolution{"two", "folder"}, ""},
		"no folder":                   {storeOf("one", two, "two:/"), "", "", Resolution{"one", "active"}, ""},
		"several, active among them":  {storeOf("one", two, "one:/p", "two:/p"), "/p", "", Resolution{"one", "active"}, ""},
		"several":                     {storeOf("", two, "two:/p", "one:/p"), "/p", "", Resolution{}, "host folder is attached to multiple VMs: one, two"},
		"several, active another":     {storeOf("six", append(two, "six"), "two:/p", "one:/p"), "/p", "", Resolution{}, "host folder is attached to multiple VMs: one, two"},
		"only":                        {storeOf("", []string{"one"}), "/p", "", Resolution{"one", "only"}, ""},
		"ambiguous":                   {storeOf("", two), "/p", "", Resolution{}, "VM selection is ambiguous (2 configured VMs: one, two)"},
		"none":                        {storeOf("", nil), "/p", "", Resolution{}, "no VM definitions found in config store"},
		"none, dangling":              {storeOf("gone", nil, "gone:/p"), "/p", "", Resolution{}, "no VM definitions found in config store"},
		"active gone":                 {storeOf("gone", []string{"one"}), "/p", "", Resolution{}, "VM not found in config store: gone (named by active_vm)"},
		"attached to one that's gone": {storeOf("one", two, "gone:/p"), "/p", "", Resolution{}, "VM not found in config store: gone (the folder is attached to it)"},
		"attached to one of two":      {storeOf("one", two, "gone:/p", "two:/p"), "/p", "", Resolution{"two", "folder"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			active := tt.c.ActiveVM
			got, err := tt.c.Resolve(tt.folder, tt.flag)
			if got != tt.want || (err == nil) != (tt.err == "") || err != nil && err.Error() != tt.err {
				t.Errorf("%+v, %v", got, err)
			}
			if tt.c.ActiveVM != active {
				t.Error("active_vm changed")
			}
			var ue *ui.Error
			if err != nil && (!errors.As(err, &ue) || ue.Exit != ui.ExitRefused || len(ue.HintLines()) == 0) {
				t.Errorf("%#v", err)
			}
		})
	}
}

func TestResolveErrorTypes(t *testing.T) {
	_, err := storeOf("", nil).Resolve("/p", "")
	if !errors.Is(err, ErrNoVM) {
		t.Errorf("%v", err)
	}
	s := &Store{Path: "/x/config.toml", Config: *storeOf("", nil)}
	if _, err = s.Resolve("/p", ""); !errors.Is(err, ErrNoVM) || err.Error() != "no VM definitions found in config store: /x/config.toml" {
		t.Errorf("%v", err)
	}
	var ambiguous *AmbiguousError
	_, err = storeOf("", []string{"b", "a"}, "a:/p", "b:/p").Resolve("/p", "")
	if !errors.As(err, &ambiguous) || !ambiguous.Folder || strings.Join(ambiguous.Candidates, " ") != "a b" {
		t.Errorf("%v", err)
	}
	var unknown *UnknownVMError
	_, err = storeOf("", []string{"work", "play"}).Resolve("/p", "wrok")
	var ue *ui.Error
	if !errors.As(err, &unknown) || unknown.Name != "wrok" || !errors.As(err, &ue) || !strings.Contains(ue.HintLines()[0], "--vm work") {
		t.Errorf("%v %+v", err, ue)
	}
}

func TestRecords(t *testing.T) {
	c := storeOf("a", []string{"a", "b"}, "a:/p", "b:/p", "b:/q")
	c.UpsertNetwork(c.NewNetwork("net"))
	if got := strings.Join(c.NetworkUsers("net"), " "); got != "a b" {
		t.Error(got)
	}
	vm, _ := c.FindVM("b")
	if n, err := c.NetworkOf(vm); err != nil || n.Name != "net" {
		t.Errorf("%v", err)
	}
	c.RemoveNetwork("net")
	if _, err := c.NetworkOf(vm); err == nil || err.Error() != `VM "b" uses network "net", which is not in the config` {
		t.Errorf("%v", err)
	}
	copied := c.Clone()
	copied.Attachments[0].Mode = "x"
	copied.Defaults.Provision.Packages[0] = "x"
	if c.Attachments[0].Mode == "x" || c.Defaults.Provision.Packages[0] == "x" {
		t.Error("Clone shares memory with the original")
	}
	c.UpsertAttachment(Attachment{HostPath: "/q/", VMName: "b", Mode: "git"})
	if a, ok := c.FindAttachment("/q", "b"); !ok || a.Mode != "git" || a.HostPath != "/q" || len(c.Attachments) != 3 {
		t.Errorf("%+v", c.Attachments)
	}
	if !c.RemoveAttachment("/q/", "b") || c.RemoveAttachment("/q", "b") {
		t.Error("RemoveAttachment")
	}
	if !c.RemoveVM("a") || c.ActiveVM != "" || len(c.Attachments) != 1 || len(c.VMs) != 1 || c.RemoveVM("a") {
		t.Errorf("%+v", c)
	}
}

func TestValidateVMName(t *testing.T) {
	for _, ok := range []string{"a", "9", "aivm-2404", "a--b", strings.Repeat("x", 63)} {
		if err := ValidateVMName(ok); err != nil {
			t.Errorf("%q: %v", ok, err)
		}
	}
	for bad, suggestion := range map[string]string{
		"": "aivm", "-": "aivm", "-a": "a", "a-": "a", "A b": "a-b", "a.b": "a-b", `"';&<>$`: "aivm", "a\nb": "a-b", "grün": "gr-n",
		strings.Repeat("x", 64): strings.Repeat("x", 63), strings.Repeat("x", 62) + "-y": strings.Repeat("x", 62), "../a": "a", "a\x00": "a",
	} {
		err := ValidateVMName(bad)
		var ue *ui.Error
		if !errors.As(err, &ue) || ue.Exit != ui.ExitUsage || !strings.Contains(ue.Message, "a-z, 0-9 and '-'") ||
			len(ue.HintLines()) != 1 || !strings.HasSuffix(ue.HintLines()[0], " "+suggestion) {
			t.Errorf("%q: %v %+v", bad, err, ue)
		}
		if ValidateVMName(suggestName(bad)) != nil {
			t.Errorf("%q: suggests %q", bad, suggestName(bad))
		}
	}
}

func TestNearest(t *testing.T) {
	for word, want := range map[string]string{"cpuz": "cpus", "CPUS": "cpus", "ram": "ram_mb", "memory": "", "x": ""} {
		if got := nearest(word, []string{"cpus", "ram_mb", "disk_gb"}); got != want {
			t.Errorf("%q: %q", word, got)
		}
	}
}
