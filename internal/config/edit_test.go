package config

import (
	"context"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func update(t testing.TB, path string, fn func(c *Config)) {
	t.Helper()
	if err := Update(context.Background(), path, func(c *Config) error { fn(c); return nil }); err != nil {
		t.Fatalf("%v", err)
	}
}

func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func active(name string) func(*Config) { return func(c *Config) { c.ActiveVM = name } }

func vmNamed(c *Config, name string) *VM {
	vm, ok := c.FindVM(name)
	if !ok {
		panic("no VM " + name)
	}
	return vm
}

func setCPUs(vm string, n int) func(*Config) {
	return func(c *Config) { vmNamed(c, vm).VM.CPUs = n }
}

func packages(list ...string) func(*Config) {
	return func(c *Config) { c.Defaults.Provision.Packages = list }
}

func tcp(list ...string) func(*Config) {
	return func(c *Config) { c.Defaults.Firewall.AllowTCPPorts = list }
}

func removeVM(names ...string) func(*Config) {
	return func(c *Config) {
		for _, name := range names {
			c.RemoveVM(name)
		}
	}
}

var small = Attachment{HostPath: "/p", VMName: "a", Mode: "git", Access: "rw"}

const smallText = "[[attachments]]\nhost_path = \"/p\"\nvm_name = \"a\"\nmode = \"git\"\naccess = \"rw\"\nguest_dst = \"\"\ntag = \"\"\n"

// TestEdits checks the exact bytes before and after one change.
func TestEdits(t *testing.T) {
	for name, tt := range map[string]struct {
		before string
		fn     func(*Config)
		after  string
	}{
		"value, comment and spacing stay": {
			"# top\n\nactive_vm   =  'a'   # mine\nzzz=1\n", active("b"),
			"# top\n\nactive_vm   =  \"b\"   # mine\nzzz=1\n",
		},
		"value without a line end": {"active_vm = \"a\"", active("b"), "active_vm = \"b\""},
		"key without a line end":   {"[behavior]\nverbose = 2", active("b"), "active_vm = \"b\"\n\n[behavior]\nverbose = 2"},
		"key into a last section without a line end": {
			"[defaults.vm]\nuser = \"u\"", func(c *Config) { c.Defaults.VM.CPUs = 3 },
			"[defaults.vm]\nuser = \"u\"\ncpus = 3",
		},
		"CRLF and BOM": {
			"\ufeff# c\r\n[behavior]\r\nverbose = 1\r\n", func(c *Config) { c.ActiveVM = "x"; c.Behavior.YesSudo = true },
			"\ufeffactive_vm = \"x\"\r\n\r\n# c\r\n[behavior]\r\nverbose = 1\r\nyes_sudo = true\r\n",
		},
		"top-level key above the first header and its comment": {
			"# licence\n\n# about behaviour\n[behavior]\nverbose = 1\n", active("x"),
			"# licence\n\nactive_vm = \"x\"\n\n# about behaviour\n[behavior]\nverbose = 1\n",
		},
		"top-level key behind the last one": {
			"schema_version = 5 # five\n# about behaviour\n[behavior]\n", active("x"),
			"schema_version = 5 # five\nactive_vm = \"x\"\n# about behaviour\n[behavior]\n",
		},
		"into an empty file":    {"", active("x"), "active_vm = \"x\"\n"},
		"into a lone BOM":       {"\ufeff", active("x"), "\ufeffactive_vm = \"x\"\n"},
		"into only comments":    {"# nothing yet\n", active("x"), "# nothing yet\nactive_vm = \"x\"\n"},
		"comment, no line end":  {"# nothing yet", active("x"), "# nothing yet\nactive_vm = \"x\""},
		"multi-line string":     {"active_vm = \"\"\"\na\"\"\" # c\nx = 1\n", active("b"), "active_vm = \"b\" # c\nx = 1\n"},
		"quoted keys":           {"\"active_vm\" = \"a\"\n[\"defaults\".'vm']\n'cpus'=1\n", func(c *Config) { c.ActiveVM = "b"; c.Defaults.VM.CPUs = 2 }, "\"active_vm\" = \"b\"\n[\"defaults\".'vm']\n'cpus'=2\n"},
		"dotted, replaced":      {"defaults . vm . cpus = 1\n", func(c *Config) { c.Defaults.VM.CPUs = 2 }, "defaults . vm . cpus = 2\n"},
		"dotted, sibling":       {"defaults.vm.cpus = 1 # n\nx = 1\n[behavior]\n", func(c *Config) { c.Defaults.VM.RAMMB = 2 }, "defaults.vm.cpus = 1 # n\ndefaults.vm.ram_mb = 2\nx = 1\n[behavior]\n"},
		"dotted, other section": {"defaults.vm.cpus = 1\n", func(c *Config) { c.Defaults.Image.Name = "x" }, "defaults.vm.cpus = 1\ndefaults.image.name = \"x\"\n"},
		"dotted below a header": {"[defaults]\n  vm.cpus = 1\n", func(c *Config) { c.Defaults.VM.DiskGB = 2 }, "[defaults]\n  vm.cpus = 1\n  vm.disk_gb = 2\n"},
		"inline, replaced":      {"defaults = { vm = { cpus = 1 } } # c\n", func(c *Config) { c.Defaults.VM.CPUs = 2 }, "defaults = { vm = { cpus = 2 } } # c\n"},
		"inline, key added":     {"defaults = { vm = { cpus = 1 } }\n", func(c *Config) { c.Defaults.VM.RAMMB = 2 }, "defaults = { vm = { cpus = 1, ram_mb = 2 } }\n"},
		"inline, table added":   {"defaults = { vm = { cpus = 1 }, vmx = [1,2] }\n", func(c *Config) { c.Defaults.Image.Name = "i" }, "defaults = { vm = { cpus = 1 }, vmx = [1,2], image.name = \"i\" }\n"},
		"inline, empty":         {"behavior = {}\n", func(c *Config) { c.Behavior.Verbose = 2 }, "behavior = { verbose = 2 }\n"},
		"inline, dotted inside": {"defaults = { vm.cpus = 1 }\n", func(c *Config) { c.Defaults.VM.RAMMB = 2 }, "defaults = { vm.cpus = 1, vm.ram_mb = 2 }\n"},
		"inline over lines": {
			"behavior = {\n  verbose = 1, # v\n}\n", func(c *Config) { c.Behavior.YesSudo = true },
			"behavior = {\n  verbose = 1, yes_sudo = true # v\n}\n",
		},
		"empty section":            {"[behavior]\n[x]\ny = 1\n", func(c *Config) { c.Behavior.Verbose = 3 }, "[behavior]\nverbose = 3\n[x]\ny = 1\n"},
		"indented section":         {"  [behavior]\n    yes_sudo = true\n\n[x]\n", func(c *Config) { c.Behavior.Verbose = 3 }, "  [behavior]\n    yes_sudo = true\n    verbose = 3\n\n[x]\n"},
		"new section":              {"x = 1\n", func(c *Config) { c.Behavior.Verbose = 3; c.Behavior.YesSudo = true }, "x = 1\n\n[behavior]\nyes_sudo = true\nverbose = 3\n"},
		"new section, no line end": {"x = 1", func(c *Config) { c.Behavior.Verbose = 3 }, "x = 1\n\n[behavior]\nverbose = 3"},
		"new section next to a related one": {
			"[defaults.vm]\ncpus = 1\n# below cpus\n\n# about x\n[x]\n", func(c *Config) { c.Defaults.Image.Name = "i" },
			"[defaults.vm]\ncpus = 1\n# below cpus\n\n[defaults.image]\nname = \"i\"\n\n# about x\n[x]\n",
		},
		"a header for a table only implied": {
			"[defaults.vm.odd]\nx = 1\n", func(c *Config) { c.Defaults.VM.CPUs = 1 },
			"[defaults.vm.odd]\nx = 1\n\n[defaults.vm]\ncpus = 1\n",
		},
		"section of a record that is not the last": {
			"[[vms]]\nname = \"a\"\n\n[[vms]]\nname = \"b\"\n", setCPUs("a", 2),
			"[[vms]]\nname = \"a\"\n\n[vms.vm]\ncpus = 2\n\n[[vms]]\nname = \"b\"\n",
		},
		"record in an inline list": {
			"vms = [\n  { name = \"a\", vm = { cpus = 1 } }, # first\n  { name = \"b\" },\n]\n",
			func(c *Config) { setCPUs("a", 2)(c); setCPUs("b", 3)(c) },
			"vms = [\n  { name = \"a\", vm = { cpus = 2 } }, # first\n  { name = \"b\", vm.cpus = 3 },\n]\n",
		},

		"list, appended": {
			"[defaults.provision]\npackages = [\"git\"] # c\n", packages("git", "jq"),
			"[defaults.provision]\npackages = [\"git\", \"jq\"] # c\n",
		},
		"list, appended over lines": {
			"[defaults.provision]\npackages = [\n  \"git\", # vcs\n  # more\n  'jq' # json\n]\n", packages("git", "jq", "curl"),
			"[defaults.provision]\npackages = [\n  \"git\", # vcs\n  # more\n  'jq', # json\n  \"curl\"\n]\n",
		},
		"list, appended behind a comma": {
			"[defaults.provision]\npackages = [\n\t\"git\", # vcs\n]\n", packages("git", "jq"),
			"[defaults.provision]\npackages = [\n\t\"git\", # vcs\n\t\"jq\",\n]\n",
		},
		"list over lines, one removed": {
			"[defaults.provision]\npackages = [\n  \"git\", # vcs\n  # json\n  \"jq\",\n  \"curl\"\n]\n", packages("git", "curl"),
			"[defaults.provision]\npackages = [\n  \"git\", # vcs\n  # json\n  \"curl\"\n]\n",
		},
		"list, first removed":      {"[defaults.provision]\npackages = [\"a\",  \"b\"]\n", packages("b"), "[defaults.provision]\npackages = [\"b\"]\n"},
		"list, last removed":       {"[defaults.provision]\npackages = [\"a\", \"b\"]\n", packages("a"), "[defaults.provision]\npackages = [\"a\"]\n"},
		"list, middle and new":     {"[defaults.provision]\npackages = [\"a\", \"b\", \"c\"]\n", packages("a", "c", "d"), "[defaults.provision]\npackages = [\"a\", \"c\", \"d\"]\n"},
		"list, emptied":            {"[defaults.provision]\npackages = [\"a\"]\n", packages(), "[defaults.provision]\npackages = []\n"},
		"list, filled":             {"[defaults.provision]\npackages = [ ] # c\n", packages("a"), "[defaults.provision]\npackages = [\"a\" ] # c\n"},
		"list, absent":             {"", packages("a", "b"), "[defaults.provision]\npackages = [\"a\", \"b\"]\n"},
		"ports, numbers":           {"[defaults.firewall]\nallow_tcp_ports = [22]\n", tcp("22", "80", "90-99"), "[defaults.firewall]\nallow_tcp_ports = [22, 80, \"90-99\"]\n"},
		"ports, strings":           {"[defaults.firewall]\nallow_tcp_ports = [\"22\"]\n", tcp("22", "80"), "[defaults.firewall]\nallow_tcp_ports = [\"22\", \"80\"]\n"},
		"ports, other spelling":    {"[defaults.firewall]\nallow_tcp_ports = [0x16, 5_432]\n", tcp("22", "5432", "80"), "[defaults.firewall]\nallow_tcp_ports = [0x16, 5_432, 80]\n"},
		"ports, from nothing":      {"[defaults.firewall]\nallow_tcp_ports = []\n", tcp("80"), "[defaults.firewall]\nallow_tcp_ports = [80]\n"},
		"an empty list of records": {"attachments = []\nx = 1\n", func(c *Config) { c.UpsertAttachment(small) }, "attachments = [{ host_path = \"/p\", vm_name = \"a\", mode = \"git\", access = \"rw\", guest_dst = \"\", tag = \"\" }]\nx = 1\n"},
		"an inline record removed": {"vms = [{name='a'}, {name='b', z={}}, {name='c'}]\n", removeVM("b"), "vms = [{name='a'}, {name='c'}]\n"},
		"inline records removed over lines": {
			"vms = [\n  {name='a'}, # a\n  # about b\n  {name='b'}, # b\n]\n", removeVM("a", "b"),
			"vms = [\n  # about b\n]\n",
		},

		"record appended": {"x = 1\n", func(c *Config) { c.UpsertAttachment(small) }, "x = 1\n\n" + smallText},
		"record appended after a record of the same list": {
			smallText + "# below\n\n# about x\n[x]\ny = 1\n",
			func(c *Config) {
				b := small
				b.HostPath = "/q"
				c.UpsertAttachment(b)
			},
			smallText + "# below\n\n" + strings.ReplaceAll(smallText, "/p", "/q") + "\n# about x\n[x]\ny = 1\n",
		},
		"record appended, no line end": {
			"x = 1", func(c *Config) { c.UpsertAttachment(small) },
			"x = 1\n\n" + strings.TrimSuffix(smallText, "\n"),
		},
		"record appended, CRLF": {"x = 1\r\n", func(c *Config) { c.UpsertAttachment(small) }, "x = 1\r\n\r\n" + strings.ReplaceAll(smallText, "\n", "\r\n")},
		"record with typed path": {
			"", func(c *Config) {
				a := small
				a.TypedPath = "/l"
				c.UpsertAttachment(a)
			}, smallText + "typed_path = \"/l\"\n",
		},
		"record removed with its comments": {
			"# top\n\n# about a\n[[vms]]\nname = \"a\"\n# below a\n\n# floats\n\n# vm of a\n[vms.vm]\ncpus = 1\n\n# about b\n[[vms]]\nname = \"b\"\n", removeVM("a"),
			"# top\n\n# floats\n\n# about b\n[[vms]]\nname = \"b\"\n",
		},
		"first record removed":            {"[[vms]]\nname = \"a\"\n\n\n# b\n[[vms]]\nname = \"b\"\n", removeVM("a"), "# b\n[[vms]]\nname = \"b\"\n"},
		"last record removed":             {"x = 1\n\n[[vms]]\nname = \"a\"\n", removeVM("a"), "x = 1\n"},
		"only record removed":             {"[[vms]]\nname = \"a\"\n", removeVM("a"), ""},
		"record removed, BOM":             {"\ufeff[[vms]]\nname = \"a\"\n\n[x]\n", removeVM("a"), "\ufeff[x]\n"},
		"record removed, CRLF":            {"x = 1\r\n\r\n[[vms]]\r\nname = \"a\"\r\n\r\n[y]\r\n", removeVM("a"), "x = 1\r\n\r\n[y]\r\n"},
		"records next to each other":      {"[[vms]]\nname = \"a\"\n[[vms]]\nname = \"b\"\n[[vms]]\nname = \"c\"\n", removeVM("a", "c"), "[[vms]]\nname = \"b\"\n"},
		"record with other tables in it":  {"[[vms]]\nname = \"a\"\n[behavior] # mine\nverbose = 2\n[vms.vm]\ncpus = 1\n[vms.vm.deep]\nx = {y = 1}\n[z]\n", removeVM("a"), "[behavior] # mine\nverbose = 2\n[z]\n"},
		"comment between records stays":   {"[[vms]]\nname = \"a\"\n# about b\n[[vms]]\nname = \"b\"\n", removeVM("a"), "# about b\n[[vms]]\nname = \"b\"\n"},
		"hash in a string is no comment":  {"[[vms]]\nname = \"a\"\nodd = \"\"\"\n[[vms]]\n# x\n\"\"\"\n[[vms]]\nname = \"b\"\n", removeVM("a"), "[[vms]]\nname = \"b\"\n"},
		"VM removed with its attachments": {"active_vm = \"a\"\n[[vms]]\nname = \"a\"\n\n" + smallText, removeVM("a"), "active_vm = \"\"\n"},
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, tt.before)
			update(t, path, tt.fn)
			got := read(t, path)
			if diff := cmp.Diff(tt.after, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if prev := read(t, path+".prev"); prev != tt.before {
				t.Errorf("previous version: %q", prev)
			}
		})
	}
}

// TestAddThenRemove checks that adding records and removing them restores the exact bytes.
func TestAddThenRemove(t *testing.T) {
	for name, text := range map[string]string{
		"0.3":     read(t, "testdata/v03.toml"),
		"CRLF":    strings.ReplaceAll(read(t, "testdata/v03.toml"), "\n", "\r\n"),
		"comment": "# nothing\n",
		"inline":  "vms = [{name = 'z'}]\nnetworks = [ {name = 'n'} ]\nattachments = []\n",
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, text)
			update(t, path, func(c *Config) {
				c.UpsertNetwork(c.NewNetwork("net-new"))
				c.UpsertVM(c.NewVM("new", "net-new"))
				c.UpsertAttachment(Attachment{HostPath: "/new", VMName: "new", Mode: "git", Access: "rw", TypedPath: "/l\x01\u202e"})
			})
			if s := mustLoad(t, path); len(s.Config.VMAttachments("new")) != 1 || read(t, path) == text {
				t.Fatalf("%+v", s.Config)
			}
			update(t, path, func(c *Config) {
				c.RemoveVM("new")
				c.RemoveNetwork("net-new")
			})
			if diff := cmp.Diff(text, read(t, path)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestEveryKeyCanChange changes every value of the 0.3 file and changes it back; nothing else may
// move. editor.default and [run] are left out: a 0.3 file has no such tables.
func TestEveryKeyCanChange(t *testing.T) {
	text := "# head\n" + read(t, "testdata/v03.toml") + "\n[mine]\nx = 1 # tail"
	path := write(t, text)
	c := mustLoad(t, path).Config
	for _, change := range []func(reflect.Value){
		func(v reflect.Value) { v.SetInt(v.Int() + 1) },
		func(v reflect.Value) { v.SetBool(!v.Bool()) },
		func(v reflect.Value) { v.SetString(v.String() + "1") },
		func(v reflect.Value) { v.Set(reflect.Append(v, reflect.ValueOf("11"))) },
	} {
		want := c.Clone()
		eachLeaf(reflect.ValueOf(&want).Elem(), "", func(key string, v reflect.Value) {
			if key == "schema_version" || key == "editor.default" || strings.HasPrefix(key, "run.") || strings.HasSuffix(key, "name") || strings.Contains(key, "path") && strings.Contains(key, "host") {
				return
			}
			defer func() { _ = recover() }() // not of this kind
			old := reflect.ValueOf(v.Interface())
			change(v)
			if !valid(want) {
				v.Set(old)
			}
		})
		update(t, path, func(x *Config) { *x = want.Clone() })
		if diff := cmp.Diff(want, mustLoad(t, path).Config, cmpopts); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
		changed := read(t, path)
		if !strings.HasPrefix(changed, "# head\n") || !strings.HasSuffix(changed, "\n[mine]\nx = 1 # tail") {
			t.Errorf("the beginning or end changed:\n%s", changed)
		}
	}
	update(t, path, func(x *Config) { *x = c.Clone() })
	if diff := cmp.Diff(c, mustLoad(t, path).Config, cmpopts); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// valid reports whether a Config could be stored.
func valid(c Config) bool {
	_, err := compose(&Store{Path: "x", Config: DefaultConfig()}, func(raw []byte) ([]byte, *Config, error) {
		have := DefaultConfig()
		return rewrite(raw, &have, &c)
	})
	return err == nil
}

func eachLeaf(v reflect.Value, key string, fn func(string, reflect.Value)) {
	switch {
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			eachLeaf(v.Field(i), joinKey(key, v.Type().Field(i).Tag.Get("toml")), fn)
		}
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct:
		for i := range v.Len() {
			eachLeaf(v.Index(i), key, fn)
		}
	default:
		fn(key, v)
	}
}

func TestNoChangeWritesNothing(t *testing.T) {
	path := write(t, "active_vm = 'a'\n[[vms]]\nname='a'\n")
	dir := strings.TrimSuffix(path, "config.toml")
	before, _ := os.Stat(path)
	update(t, path, func(c *Config) {
		c.ActiveVM = "a"
		vm, _ := c.FindVM("a")
		c.UpsertVM(*vm)
		c.Attachments = []Attachment{}
	})
	update(t, dir+"none/config.toml", func(*Config) {})
	after, _ := os.Stat(path)
	if files, _ := os.ReadDir(dir); len(files) != 1 || !os.SameFile(before, after) || before.ModTime() != after.ModTime() {
		t.Errorf("%v", files)
	}
}

func TestNewStoreLayout(t *testing.T) {
	path := t.TempDir() + "/sub/aivm/config.toml"
	update(t, path, func(c *Config) {
		c.ActiveVM = "dev"
		c.Behavior.Verbose = 2
		n := c.NewNetwork("aivm-net")
		n.Firewall.AllowTCPPorts = []string{"22", "8000-8010"}
		c.UpsertNetwork(n)
		vm := c.NewVM("dev", "aivm-net")
		vm.VM.CPUs, vm.VM.RAMMB, vm.VM.DiskGB = 4, 8192, 40
		vm.Image.Name = "packages:debian-12"
		vm.Editor.Default = "code"
		c.UpsertVM(vm)
		c.UpsertAttachment(small)
	})
	golden(t, "new.toml", read(t, path))
	for p, mode := range map[string]os.FileMode{path: 0o600, strings.TrimSuffix(path, "/config.toml"): 0o700 | os.ModeDir} {
		if info, err := os.Stat(p); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v", p, info.Mode(), err)
		}
	}
	if _, err := os.Stat(path + ".prev"); !os.IsNotExist(err) {
		t.Error("NAME.prev exists after the first write")
	}
}

func TestInit(t *testing.T) {
	ctx := context.Background()
	path := t.TempDir() + "/config.toml"
	d := DefaultConfig().Defaults
	d.VM.CPUs, d.VM.RAMMB, d.VM.DiskGB = 4, 8192, 40
	if err := Init(ctx, path, d, false); err != nil {
		t.Fatal(err)
	}
	golden(t, "init.toml", read(t, path))
	if diff := cmp.Diff(d, mustLoad(t, path).Config.Defaults, cmpopts); diff != "" {
		t.Error(diff)
	}
	before := read(t, path)
	if err := Init(ctx, path, d, false); err == nil || !strings.Contains(err.Error(), "already has a [defaults] section") {
		t.Errorf("%v", err)
	}
	d.VM.CPUs, d.VM.RAMMB = 2, 0
	if err := Init(ctx, path, d, true); err != nil {
		t.Fatal(err)
	}
	want := strings.NewReplacer("cpus = 4", "cpus = 2", "ram_mb = 8192", "ram_mb = 0").Replace(before)
	if diff := cmp.Diff(want, read(t, path)); diff != "" {
		t.Error(diff)
	}
	// A store without a [defaults] section keeps all its content.
	other := write(t, "active_vm = 'x'\n[[vms]] # mine\nname = 'x'\nq = 1\n")
	if err := Init(ctx, other, d, false); err != nil {
		t.Fatal(err)
	}
	if got := read(t, other); !strings.HasPrefix(got, "active_vm = 'x'\n[[vms]] # mine\nname = 'x'\nq = 1\n\n[defaults.vm]\n") {
		t.Error(got)
	}
}

// cmpopts makes a nil and an empty list equal.
var cmpopts = cmp.Comparer(func(a, b []string) bool { return slices.Equal(a, b) })

func attachOn(d disk, path, folder string) error {
	ctx, cancel := context.WithTimeout(context.WithValue(context.Background(), diskKey{}, d), time.Minute)
	defer cancel()
	return Update(ctx, path, func(c *Config) error {
		c.UpsertAttachment(Attachment{HostPath: folder, VMName: "a", Mode: "git", Access: "rw"})
		return nil
	})
}
