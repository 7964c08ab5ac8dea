package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"aivm.dev/aivm/internal/ui"
)

func write(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func mustLoad(t testing.TB, path string) *Store {
	t.Helper()
	s, err := Load(path)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return s
}

func TestLoad03(t *testing.T) {
	s := mustLoad(t, "testdata/v03.toml")
	if len(s.Warnings) != 0 {
		t.Errorf("warnings: %v", s.Warnings)
	}
	c := s.Config
	want := DefaultConfig()
	want.ActiveVM = "aivm-2404"
	d := &want.Defaults
	d.VM = VMSpec{Name: "aivm-2404", User: "agent", CPUs: 4, RAMMB: 8192, DiskGB: 40, Password: "agent"}
	d.Firewall.AllowTCPPorts = []string{"22", "5432"}
	d.Firewall.ExtraBlockCIDRs, d.Firewall.AllowUDPPorts = []string{}, []string{}
	url := "https://cloud-images.example/noble/20260225/noble-server-cloudimg-amd64.img"
	d.Image.UbuntuImgURL = url
	d.Paths.StateDir = "/home/joe/.cache/aivm"
	d.Paths.SSHIdentityFile = "/home/joe/.ssh/id_ed25519"
	d.Paths.SSHPubkeyPath = "/home/joe/.ssh/id_ed25519.pub"
	want.Networks = []Network{{
		Name: "aivm-net", Network: defaultNetworkSpec(),
		Firewall: Firewall{
			Enabled: true, Table: "aivm_sandbox", BlockCIDRs: []string{"10.0.0.0/8"}, ExtraBlockCIDRs: []string{},
			AllowTCPPorts: []string{"22", "8080", "9000-9010"}, AllowUDPPorts: []string{"53"},
		},
	}}
	want.VMs = []VM{{
		Name: "aivm-2404", NetworkName: "aivm-net",
		VM:        VMSpec{Name: "aivm-2404", User: "agent", CPUs: 6, RAMMB: 12288, DiskGB: 64, Password: "agent"},
		Image:     Image{UbuntuImgURL: url, CacheName: "noble-base.img", Name: "auto"},
		Provision: Provision{Enabled: true, InstallDocker: true, Packages: []string{"git", "jq"}},
		Sync:      Sync{Enabled: true, Overwrite: true, Paths: []string{"~/.gitconfig"}},
		Paths:     Paths{BaseDir: "/var/lib/libvirt/aivm", StateDir: "/home/joe/.cache/aivm"},
	}}
	odd := `/home/joe/a "quoted" \ path`
	want.Attachments = []Attachment{
		{HostPath: odd, VMName: "aivm-2404", Mode: "shared-root", Access: "rw", GuestDst: odd, Tag: "hostcode-a-1f2e3d4c"},
		{HostPath: "/home/joe/grü😀n", VMName: "aivm-2404", Mode: "git", Access: "rw", GuestDst: "/home/agent/x"},
	}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestLoadAbsentCreatesNothing(t *testing.T) {
	dir := t.TempDir()
	s := mustLoad(t, filepath.Join(dir, "sub", "config.toml"))
	if s.Exists || s.Newer || len(s.Warnings) != 0 {
		t.Errorf("%+v", s)
	}
	if diff := cmp.Diff(DefaultConfig(), s.Config); diff != "" {
		t.Error(diff)
	}
	if files, _ := os.ReadDir(dir); len(files) != 0 {
		t.Errorf("reading created %v", files)
	}
}

func TestDefaultPath(t *testing.T) {
	for _, tt := range []struct{ xdg, home, want string }{
		{"/x", "/h", "/x/aivm/config.toml"},
		{"", "/h", "/h/.config/aivm/config.toml"},
		{"relative", "/h", "/h/.config/aivm/config.toml"},
		{"", "", ""},
	} {
		t.Setenv("XDG_CONFIG_HOME", tt.xdg)
		t.Setenv("HOME", tt.home)
		got, err := DefaultPath()
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("XDG_CONFIG_HOME=%q HOME=%q: %q, %v", tt.xdg, tt.home, got, err)
		}
	}
}

// TestLoadErrors loads files with one mistake each; the error names line, column and key.
func TestLoadErrors(t *testing.T) {
	for name, tt := range map[string]struct {
		text, want string
	}{
		"string for number":      {"[[vms]]\nname = \"a\"\n[vms.vm]\ncpus = \"four\"\n", `4:8: vms[0].vm.cpus: must be an integer, not a string`},
		"float for number":       {"[defaults.vm]\n  ram_mb =  8.5\n", `2:13: defaults.vm.ram_mb: must be an integer, not a decimal number`},
		"negative":               {"[defaults.vm]\ncpus = -1\n", `2:8: defaults.vm.cpus: must be from 0 to 1073741824, not -1`},
		"number for bool":        {"[behavior]\nyes_sudo = 1\n", `2:12: behavior.yes_sudo: must be true or false, not an integer`},
		"date for string":        {"active_vm = 2026-01-01\n", `1:13: active_vm: must be a string, not a date`},
		"string for list":        {"[defaults.provision]\npackages = \"git\"\n", `2:12: defaults.provision.packages: must be a list, not a string`},
		"number in string list":  {"[defaults.provision]\npackages = [\"git\",\n  7]\n", `3:3: defaults.provision.packages[1]: must be a string, not an integer`},
		"table for list":         {"[vms]\nname = \"a\"\n", `1:2: vms: must be a list of tables ([[vms]]), not a table`},
		"list for table":         {"[[behavior]]\nverbose = 1\n", `1:3: behavior: must be a table, not a list of tables`},
		"value for table":        {"defaults = 3\n", `1:1: defaults: must be a table, not an integer`},
		"value for record":       {"vms = [3]\n", `1:8: vms[0]: must be a table, not an integer`},
		"schema as string":       {"schema_version = \"5\"\n", `1:18: schema_version: must be an integer, not a string`},
		"in an inline table":     {"defaults = { vm = { cpus = true } }\n", `1:28: defaults.vm.cpus: must be an integer, not true or false`},
		"by a dotted key":        {"defaults.vm.cpus = []\n", `1:20: defaults.vm.cpus: must be an integer, not a list`},
		"columns are characters": {"active_vm = \"a\" # grün\n[[attachments]]\nhost_path = \"/grün\"\nvm_name = 1 # x\n", `4:11: attachments[0].vm_name: must be a string, not an integer`},
		"after a BOM":            {"\ufeffactive_vm = 1\n", `1:13: active_vm: must be a string, not an integer`},
		"CRLF":                   {"\r\n[behavior]\r\nverbose = \"x\"\r\n", `3:11: behavior.verbose: must be an integer, not a string`},

		"bridge too long":    {"[defaults.network]\nbridge = \"virbr-aivm-longer\"\n", `2:10: defaults.network.bridge: must be an interface name (1 to 15 letters, digits, '_', '.', '-'), not "virbr-aivm-longer"`},
		"bad subnet":         {"[defaults.network]\nsubnet_cidr = \"10.77.0.0/33\"\n", `2:15: defaults.network.subnet_cidr: must be an IPv4 network like "10.77.0.0/24", not "10.77.0.0/33"`},
		"bad address":        {"[defaults.network]\ngateway_ip = \"10.77.0\"\n", `2:14: defaults.network.gateway_ip: must be an IP address like "10.77.0.1", not "10.77.0"`},
		"bad cidr in a list": {"[defaults.firewall]\nextra_block_cidrs = [\"1.2.3.0/24\", \"x; drop\"]\n", `2:36: defaults.firewall.extra_block_cidrs[1]: must be a network like "10.77.0.0/24", not "x; drop"`},
		"port 0":             {"[defaults.firewall]\nallow_tcp_ports = [0]\n", `2:20: defaults.firewall.allow_tcp_ports[0]: invalid firewall port "0": ports are from 1 to 65535`},
		"port 70000":         {"[defaults.firewall]\nallow_udp_ports = [\"70000\"]\n", `2:20: defaults.firewall.allow_udp_ports[0]: invalid firewall port "70000": ports are from 1 to 65535`},
		"backward range":     {"[defaults.firewall]\nallow_udp_ports = [\"90-80\"]\n", `2:20: defaults.firewall.allow_udp_ports[0]: invalid firewall port "90-80": ports are from 1 to 65535`},
		"table name":         {"[defaults.firewall]\ntable = \"x{}\"\n", `2:9: defaults.firewall.table: must be a table name (letters, digits and '_'), not "x{}"`},
		"user":               {"[defaults.vm]\nuser = \"a b\"\n", `2:8: defaults.vm.user: must be a user name (1 to 32 of a-z, 0-9, '_', '-', starting with a letter), not "a b"`},
		"other driver":       {"[defaults.vm]\nlibvirt_uri = \"xen:///system\"\n", `2:15: defaults.vm.libvirt_uri: must be qemu:///system, or qemu+unix:///system?socket=/PATH for another socket of this machine's libvirt, not "xen:///system"`},
		"other machine":      {"[[vms]]\nname = \"a\"\n[vms.vm]\nlibvirt_uri = \"qemu+ssh://h/system\"\n", `4:15: vms[0].vm.libvirt_uri: must be qemu:///system, or`},
		"session":            {"[defaults.vm]\nlibvirt_uri = \"qemu:///session\"\n", `2:15: defaults.vm.libvirt_uri: must be the system's libvirt, qemu:///system: the session's`},
		"socket":             {"[defaults.vm]\nlibvirt_uri = \"qemu:///system?socket=../x\"\n", `2:15: defaults.vm.libvirt_uri: must name a socket by its absolute path`},
		"libvirt as a list":  {"[defaults.vm]\nlibvirt_uri = []\n", `2:15: defaults.vm.libvirt_uri: must be a string, not a list`},
		"VM name":            {"[[vms]]\nname = \"a/../b\"\n", `2:8: vms[0].name: must be a VM name (1 to 63 of a-z, 0-9 and '-'), not "a/../b"; for example "a-b"`},
		"VM name dash":       {"[[vms]]\nname = \"-a\"\n", `2:8: vms[0].name: must be a VM name (1 to 63 of a-z, 0-9 and '-'), not "-a"; for example "a"`},
		"relative host path": {"[[attachments]]\nvm_name = \"a\"\nhost_path = \"x\"\n", `3:13: attachments[0].host_path: must be an absolute path, not "x"`},
		"no host path":       {"[[attachments]]\nvm_name = \"a\"\n", `1:3: attachments[0].host_path: is missing`},
		"no VM name":         {"\n[[attachments]]\nhost_path = \"/x\"\n", `2:3: attachments[0].vm_name: is missing`},
		"no name":            {"[[vms]]\nnetwork_name = \"n\"\n", `1:3: vms[0].name: is missing`},
		"name twice":         {"[[vms]]\nname = \"a\"\n[[vms]]\nname = \"a\"\n", `3:3: vms[1].name: "a" is already the name of another record, on line 1`},

		"no value":         {"active_vm = \n", `1:13: `},
		"open string":      {"a = 1\nb = \"x\n", `2:7: `},
		"key twice":        {"a = 1\nb = 2\na = 3\n", `3:1: `},
		"table twice":      {"[a]\nb=1\n[c]\n[a]\n", `4:2: `},
		"raw newline 0.3":  {"[[attachments]]\nhost_path = \"/x\ny\"\n", `2:16: `},
		"not UTF-8":        {"a = 1\nb = \"\xff\"\n", `2:6: byte 0xff is not UTF-8`},
		"NUL":              {"a = 1\n\x00", `2:1: a NUL byte is not allowed`},
		"UTF-16":           {"\xff\xfea\x00", `1:1: the file is UTF-16; it must be UTF-8`},
		"rubbish":          {"<html>\n", `1:1: `},
		"after a BOM TOML": {"\ufeffx = = 1\n", `1:5: `},
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, tt.text)
			s, err := Load(path)
			var fe *FileError
			var ue *ui.Error
			if !errors.As(err, &fe) || !errors.As(err, &ue) {
				t.Fatalf("got %+v, %v", s, err)
			}
			if got := strings.TrimPrefix(fe.Error(), path+":"); !strings.HasPrefix(got, tt.want) || strings.HasSuffix(tt.want, "missing") && got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			if len(ue.HintLines()) == 0 || ue.Exit != ui.ExitRefused {
				t.Errorf("%+v", ue)
			}
			ps, err := Lint(path)
			if err != nil || len(ps) == 0 || ps[0].Line != fe.Line || ps[0].Column != fe.Column || ps[0].Key != fe.Key {
				t.Errorf("lint: %v, %v", ps, err)
			}
		})
	}
}

func TestLoadManyProblemsIsOneError(t *testing.T) {
	path := write(t, "[behavior]\nverbose = \"x\"\nyes_sudo = 1\n")
	_, err := Load(path)
	var ue *ui.Error
	if !errors.As(err, &ue) || !strings.Contains(ue.Message, ":2:11: behavior.verbose") || !strings.Contains(strings.Join(ue.HintLines(), "\n"), "(1 more)") {
		t.Errorf("%+v", ue)
	}
}

func TestWarnings(t *testing.T) {
	path := write(t, strings.Join([]string{
		`color = 1`,
		`[defaults.vm]`,
		`cpuz = 4`,
		`allow_password_login = true`,
		`[firewal]`,
		`x = 1`,
		`[sync]`,
		`enabled = true`,
		`[[vms]]`,
		`name = "My_VM"`,
		`[vms.vm]`,
		`name = "other"`,
		`[[attachments]]`,
		`host_path = "/p"`,
		`vm_name = "My_VM"`,
		`"odd key" = 1`,
		`[[attachments]]`,
		`host_path = "/p/"`,
		`vm_name = "My_VM"`,
	}, "\n"))
	s := mustLoad(t, path)
	want := []Warning{
		{1, "color", `unknown key "color"`, false},
		{2, "defaults.vm.allow_password_login", "has no effect: guests accept SSH keys only", false},
		{3, "defaults.vm.cpuz", `unknown key "cpuz"; did you mean "cpus"?`, false},
		{5, "firewal", `unknown key "firewal"`, false},
		{7, "sync", "[sync] is read as [defaults.sync], for what is created from now on; records in [[vms]] have sections of their own", true},
		{9, "vms[0].vm.name", `is "other", but the record is called "My_VM"`, false},
		{9, "vms[0].name", `"My_VM" is a name that only aivm 0.3 allowed; host names and ssh aliases can only contain a-z, 0-9 and '-'`, false},
		{16, `attachments[0]."odd key"`, `unknown key "odd key"`, false},
		{17, "attachments[1]", `this folder is already attached to VM "My_VM" on line 13`, false},
	}
	if diff := cmp.Diff(want, s.Warnings); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	ps, err := Lint(path)
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, p := range ps {
		keys = append(keys, p.Key)
	}
	if diff := cmp.Diff([]string{"color", "defaults.vm.cpuz", "firewal", `attachments[0]."odd key"`}, keys); diff != "" {
		t.Error(diff)
	}
	if got := ps[1].String(); got != `line 3, column 1: defaults.vm.cpuz: unknown key "cpuz"; did you mean "cpus"?` {
		t.Error(got)
	}
}

func TestLint(t *testing.T) {
	if ps, err := Lint("testdata/v03.toml"); err != nil || len(ps) != 0 {
		t.Errorf("%v, %v", ps, err)
	}
	var ue *ui.Error
	if _, err := Lint(filepath.Join(t.TempDir(), "x.toml")); !errors.As(err, &ue) || ue.Exit != ui.ExitRefused || !strings.Contains(ue.Message, "config store not found") {
		t.Errorf("%v", err)
	}
}

func TestNewerSchemaIsReadable(t *testing.T) {
	path := write(t, "schema_version = 7\nactive_vm = \"a\"\n[tools]\nuv = \"latest\"\n[defaults.vm]\ncpus = \"auto\"\n[[vms]]\nname = \"a\"\nattachments = [{ host = \"/x\" }]\n")
	s := mustLoad(t, path)
	if !s.Newer || s.Config.ActiveVM != "a" || len(s.Config.VMs) != 1 || s.Config.SchemaVersion != 7 {
		t.Errorf("%+v", s)
	}
	if len(s.Warnings) != 3 {
		t.Errorf("%v", s.Warnings)
	}
}

func TestLoadNotAFile(t *testing.T) {
	dir := t.TempDir()
	file := write(t, "")
	for _, path := range []string{dir, "/dev/zero", filepath.Join(file, "x")} {
		var ue *ui.Error
		if _, err := Load(path); !errors.As(err, &ue) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestHintNamesTheStore(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", dir)
	def, _ := DefaultPath()
	if got := command(def, "config edit"); got != "aivm config edit" {
		t.Error(got)
	}
	if got := command("/a b/c", "config edit"); got != "aivm config edit --config '/a b/c'" {
		t.Error(got)
	}
}

func BenchmarkLoad(b *testing.B) {
	for b.Loop() {
		if _, err := Load("testdata/v03.toml"); err != nil {
			b.Fatal(err)
		}
	}
}

// TestLoadIsQuick requires that Load takes at most 2 ms. It uses the fastest of 20 runs, so that
// load on the machine does not matter.
func TestLoadIsQuick(t *testing.T) {
	best := time.Hour
	for range 20 {
		start := time.Now()
		mustLoad(t, "testdata/v03.toml")
		best = min(best, time.Since(start))
	}
	if best > 2*time.Millisecond {
		t.Errorf("Load took %v", best)
	}
}
