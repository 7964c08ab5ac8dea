package vmpi

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"aivm.dev/aivm/internal/projectfile"
)

// Names are the names of vmpi's files, the first that exists in a folder counts.
var Names = []string{".vmpirc.json", ".vmpirc.yaml", ".vmpirc.yml"}

// LocalService is one entry of network.localServices.
type LocalService struct {
	Hostname string
	Port     int
}

// Secret is one entry of secrets: the variable in the guest, the hosts it is for, and the host's
// variable, the same unless Env is set.
type Secret struct {
	Name  string
	Hosts []string
	Env   string
}

// A File is what one file says. Zero values are absent keys. Wrong has what cannot be read of it.
type File struct {
	Path           string
	Memory, CPUs   value
	PiConfigDir    string
	StateDir       string
	Policy         string
	Providers      []string
	AllowedDomains []string
	LocalServices  []LocalService
	RootfsExtraMB  int
	GuestPackages  []string
	packagesLine   int
	Secrets        []Secret
	Wrong          []projectfile.Ignored
}

// Find returns the file of vmpi that counts in folder: searched from folder upwards to the root.
// Above folder, a file of another user than uid and root is passed over: anybody can put one into
// /tmp. "" means that there is none.
func Find(folder string, uid int) string {
	for dir := filepath.Clean(folder); ; dir = filepath.Dir(dir) {
		for _, name := range Names {
			owner, ok := projectfile.Owner(dir, name)
			if ok && (dir == filepath.Clean(folder) || owner == uid || owner == 0) {
				return filepath.Join(dir, name)
			}
		}
		if dir == filepath.Dir(dir) {
			return ""
		}
	}
}

// Read reads a file of vmpi.
func Read(path string) (File, error) {
	f := File{Path: path}
	text, err := projectfile.Content(filepath.Dir(path), filepath.Base(path))
	if err != nil {
		return f, err
	}
	root, err := parse(filepath.Base(path), text)
	if err != nil {
		return f, err
	}
	f.fill(root)
	return f, nil
}

// fill sets the fields from the keys.
func (f *File) fill(root value) {
	for _, v := range root.kids {
		switch v.key {
		case "memory":
			f.Memory = v
		case "cpus":
			f.CPUs = v
		case "piConfigDir":
			f.text(&f.PiConfigDir, v, v.key)
		case "stateDir":
			f.text(&f.StateDir, v, v.key)
		case "rootfsExtraMb":
			f.number(&f.RootfsExtraMB, v, v.key)
		case "guestPackages":
			f.packagesLine = v.line
			f.texts(&f.GuestPackages, v, v.key)
		case "network":
			f.network(v)
		case "secrets":
			f.secrets(v)
		default:
			f.wrong(v, v.key, "vmpi 0.3 has no such key")
		}
	}
}

func (f *File) network(network value) {
	if !network.table {
		f.wrong(network, "network", "it is not a table")
		return
	}
	for _, v := range network.kids {
		key := "network." + v.key
		switch v.key {
		case "policy":
			f.text(&f.Policy, v, key)
			if !slices.Contains([]string{"", "allow-all", "deny-all", "custom"}, f.Policy) {
				f.wrong(v, key, "it is none of allow-all, deny-all and custom")
				f.Policy = ""
			}
		case "providers":
			f.texts(&f.Providers, v, key)
		case "allowedDomains":
			f.texts(&f.AllowedDomains, v, key)
		case "localServices":
			f.services(v, key)
		default:
			f.wrong(v, key, "vmpi 0.3 has no such key")
		}
	}
}

func (f *File) services(list value, key string) {
	if !list.list {
		f.wrong(list, key, "it is not a list")
		return
	}
	for _, v := range list.kids {
		host, _ := v.child("hostname")
		port, _ := v.child("port")
		name, isName := host.scalar.(string)
		n, isNumber := port.scalar.(int64)
		if !v.table || !isName || name == "" || !isNumber || n < 1 || n > 65535 {
			f.wrong(v, key, "an entry is not { hostname, port }")
			continue
		}
		f.LocalServices = append(f.LocalServices, LocalService{Hostname: name, Port: int(n)})
	}
}

func (f *File) secrets(table value) {
	if !table.table {
		f.wrong(table, "secrets", "it is not a table")
		return
	}
	for _, v := range table.kids {
		key := "secrets." + v.key
		if !v.table || !isVariable(v.key) {
			f.wrong(v, key, "it is not a variable with a table of hosts")
			continue
		}
		s := Secret{Name: v.key, Env: v.key}
		for _, k := range v.kids {
			switch k.key {
			case "hosts":
				f.texts(&s.Hosts, k, key+".hosts")
			case "env":
				f.text(&s.Env, k, key+".env")
			default:
				f.wrong(k, key+"."+k.key, "vmpi 0.3 has no such key")
			}
		}
		if !isVariable(s.Env) {
			f.wrong(v, key+".env", "it is not the name of a variable")
			continue
		}
		f.Secrets = append(f.Secrets, s)
	}
}

// isVariable reports whether s can be the name of an environment variable.
func isVariable(s string) bool {
	for i, r := range s {
		if r != '_' && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return s != "" && len(s) <= 128
}

func (f *File) wrong(v value, key, format string, args ...any) {
	var w projectfile.Wants
	w.Ignore(f.Path, v.line, key, format, args...)
	f.Wrong = append(f.Wrong, w.Ignored...)
}

func (f *File) text(to *string, v value, key string) {
	s, ok := v.scalar.(string)
	if !ok {
		f.wrong(v, key, "it is not a string")
		return
	}
	*to = s
}

func (f *File) number(to *int, v value, key string) {
	n, ok := v.scalar.(int64)
	if !ok || n < 0 || n > 1<<20 {
		f.wrong(v, key, "it is not a number of MiB")
		return
	}
	*to = int(n)
}

func (f *File) texts(to *[]string, v value, key string) {
	if !v.list {
		f.wrong(v, key, "it is not a list")
		return
	}
	list := []string{}
	for _, k := range v.kids {
		s, ok := k.scalar.(string)
		if !ok || s == "" || len(s) > 253 {
			f.wrong(k, key, "an entry is not a name")
			return
		}
		list = append(list, s)
	}
	*to = list
}

// Options say for which user a file is read, and which limits and variables count.
type Options struct {
	projectfile.Options
	UID    int
	Getenv func(string) string
}

// Project returns what a run in folder takes from vmpi's file and variables, with a remark for each
// other key.
func Project(folder string, o Options) projectfile.Wants {
	var w projectfile.Wants
	if path := Find(folder, o.UID); path != "" {
		w = wantsOf(path, o)
	}
	for variable, set := range map[string]func(value any){
		"VMPI_MEMORY": func(v any) { w.SetMemory("the environment", 0, "VMPI_MEMORY", v, o.Options) },
		"VMPI_CPUS":   func(v any) { w.SetCPUs("the environment", 0, "VMPI_CPUS", v, o.Options) },
	} {
		if s := o.Getenv(variable); s != "" {
			if n, err := strconv.ParseInt(s, 10, 64); err == nil {
				set(n)
			} else {
				set(s)
			}
		}
	}
	return w
}

func wantsOf(path string, o Options) projectfile.Wants {
	var w projectfile.Wants
	f, err := Read(path)
	if err != nil {
		var se *syntaxError
		switch {
		case errors.As(err, &se):
			w.Ignore(path, se.line, "", "%s", se.message)
		case !errors.Is(err, fs.ErrNotExist):
			w.Ignore(path, 0, "", "%v", err)
		}
		return w
	}
	w.Files, w.Ignored = []string{path}, f.Wrong
	if f.Memory.line > 0 {
		w.SetMemory(path, f.Memory.line, "memory", f.Memory.scalar, o.Options)
	}
	if f.CPUs.line > 0 {
		w.SetCPUs(path, f.CPUs.line, "cpus", f.CPUs.scalar, o.Options)
	}
	if len(f.GuestPackages) > 0 {
		names, _ := debianNames(f.GuestPackages)
		var list []any
		for _, n := range names {
			list = append(list, n)
		}
		w.AddPackages(path, f.packagesLine, "guestPackages", list)
	}
	if keys := f.otherKeys(); len(keys) > 0 {
		w.Ignore(path, 0, strings.Join(keys, ", "), "a project can only set memory, CPUs and packages; aivm setup --import shows what else it means for %s", o.trusted())
	}
	return w
}

func (o Options) trusted() string {
	if o.Trusted == "" {
		return "the config"
	}
	return o.Trusted
}

// otherKeys returns the keys in the file that a run does not take.
func (f File) otherKeys() []string {
	var keys []string
	for _, k := range []struct {
		key string
		set bool
	}{
		{"piConfigDir", f.PiConfigDir != ""},
		{"stateDir", f.StateDir != ""},
		{"network.policy", f.Policy != ""},
		{"network.providers", len(f.Providers) > 0},
		{"network.allowedDomains", len(f.AllowedDomains) > 0},
		{"network.localServices", len(f.LocalServices) > 0},
		{"rootfsExtraMb", f.RootfsExtraMB > 0},
		{"secrets", len(f.Secrets) > 0},
	} {
		if k.set {
			keys = append(keys, k.key)
		}
	}
	return keys
}

// environment lists the variables of vmpi that are set, as "NAME=VALUE".
func environment(getenv func(string) string) []string {
	var out []string
	for _, name := range []string{"VMPI_MEMORY", "VMPI_CPUS", "VMPI_STATE_DIR", "VMPI_ROOTFS_EXTRA_MB", "PI_CONFIG_DIR"} {
		if v := getenv(name); v != "" {
			out = append(out, fmt.Sprintf("%s=%s", name, v))
		}
	}
	return out
}
