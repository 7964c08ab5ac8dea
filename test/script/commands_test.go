package script

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/test/hints"
)

var commands = map[string]func(*testscript.TestScript, bool, []string){
	"rc":       cmdRC,
	"keep":     cmdKeep,
	"kept":     cmdKept,
	"store":    cmdStore,
	"attached": cmdAttached,
	"smallfs":  cmdSmallfs,
	"readonly": cmdReadonly,
	"xattr":    cmdXattr,
	"changes":  cmdChanges,
	"json":     cmdJSON,
	"shape":    cmdShape,
	"tty":      cmdTTY,
	"hints":    cmdHints,
	"template": cmdTemplate,

	"sudocount": cmdSudocount,
	"hostkeys":  cmdHostkeys,
	"verdict":   cmdVerdict,
}

// cmdRC runs a program and checks its exit status: rc 3 aivm code .
// For a program killed by a signal it is 128 plus the signal's number, as in a shell.
func cmdRC(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	if neg || err != nil || len(args) < 2 {
		ts.Fatalf("usage: rc STATUS PROGRAM ARG...")
	}
	wantStatus(ts, want, ts.Exec(args[1], args[2:]...))
}

func wantStatus(ts *testscript.TestScript, want int, err error) {
	got := 0
	var ee *exec.ExitError
	switch {
	case errors.As(err, &ee):
		got = ee.ExitCode()
		if st, ok := ee.Sys().(syscall.WaitStatus); ok && st.Signaled() {
			got = 128 + int(st.Signal())
		}
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

// tree describes every file below roots: kind, mode, owner, link target, content, inode and modification
// time. So writing the same content again is a difference too.
func tree(roots []string) (string, error) {
	var b strings.Builder
	for _, root := range roots {
		err := filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				fmt.Fprintf(&b, "%s missing\n", p)
				return nil
			}
			if err != nil {
				return err
			}
			st, err := os.Lstat(p)
			if err != nil {
				return err
			}
			sys := st.Sys().(*syscall.Stat_t)
			fmt.Fprintf(&b, "%s %v %d:%d", p, st.Mode(), sys.Uid, sys.Gid)
			switch {
			case st.Mode()&fs.ModeSymlink != 0:
				to, err := os.Readlink(p)
				if err != nil {
					return err
				}
				fmt.Fprintf(&b, " -> %s", to)
			case st.Mode().IsRegular():
				data, err := os.ReadFile(p)
				if err != nil {
					return err
				}
				fmt.Fprintf(&b, " %d bytes %x inode %d %d", len(data), sha256.Sum256(data), sys.Ino, sys.Mtim.Nano())
			}
			b.WriteByte('\n')
			return nil
		})
		if err != nil {
			return "", err
		}
	}
	return b.String(), nil
}

type kept struct {
	roots []string
	was   string
}

// trees has the trees that "keep" recorded, by script and name.
var trees = map[*testscript.TestScript]map[string]kept{}

// cmdKeep records the present state of directory trees: keep NAME PATH... Without paths it records the
// script's home, which contains the ssh configuration, the config and the state directory.
func cmdKeep(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: keep NAME [PATH...]")
	}
	roots := []string{ts.Getenv("HOME")}
	if len(args) > 1 {
		roots = nil
		for _, a := range args[1:] {
			roots = append(roots, ts.MkAbs(a))
		}
	}
	was, err := tree(roots)
	ts.Check(err)
	treesMu.Lock()
	defer treesMu.Unlock()
	if trees[ts] == nil {
		trees[ts] = map[string]kept{}
		ts.Defer(func() { treesMu.Lock(); delete(trees, ts); treesMu.Unlock() })
	}
	trees[ts][args[0]] = kept{roots, was}
}

// cmdKept checks that the trees recorded by keep did not change: kept NAME.
func cmdKept(ts *testscript.TestScript, neg bool, args []string) {
	treesMu.Lock()
	k, ok := trees[ts][args[0]]
	treesMu.Unlock()
	if !ok {
		ts.Fatalf("no tree was recorded with keep %s", args[0])
	}
	is, err := tree(k.roots)
	ts.Check(err)
	if d := cmp.Diff(strings.Split(k.was, "\n"), strings.Split(is, "\n")); (d == "") == neg {
		if neg {
			ts.Fatalf("%s did not change", args[0])
		}
		ts.Fatalf("%s changed (-was +is):\n%s", args[0], d)
	}
}

// cmdStore writes a config with the script's own names, and with records of VMs: store [VM...].
func cmdStore(ts *testscript.TestScript, neg bool, args []string) {
	e := ts.Getenv
	net := fmt.Sprintf("name = %q\nbridge = %q\nsubnet_cidr = \"%[3]s.0/24\"\ngateway_ip = \"%[3]s.1\"\ndhcp_start = \"%[3]s.100\"\ndhcp_end = \"%[3]s.200\"\n",
		e("NET"), e("BRIDGE"), e("SUB"))
	var b strings.Builder
	fmt.Fprintf(&b, "schema_version = 5\n\n[defaults.vm]\nname = %q\ncpus = 1\nram_mb = 512\ndisk_gb = 4\n\n[defaults.network]\n%s\n[defaults.paths]\nbase_dir = %q\n",
		e("VM"), net, e("BASE"))
	if len(args) > 0 {
		fmt.Fprintf(&b, "\n[[networks]]\nname = %q\n\n[networks.network]\n%s", e("NET"), net)
	}
	for _, vm := range args {
		fmt.Fprintf(&b, "\n[[vms]]\nname = %q\nnetwork_name = %q\n\n[vms.vm]\nname = %[1]q\nuser = \"agent\"\ncpus = 1\nram_mb = 512\ndisk_gb = 4\n\n[vms.paths]\nbase_dir = %[3]q\n",
			vm, e("NET"), e("BASE"))
	}
	ts.Check(os.MkdirAll(filepath.Dir(e("STORE")), 0o700))
	ts.Check(os.WriteFile(e("STORE"), []byte(b.String()), 0o600))
}

// cmdAttached adds an attachment to the config: attached FOLDER VM.
func cmdAttached(ts *testscript.TestScript, neg bool, args []string) {
	f, err := os.OpenFile(ts.Getenv("STORE"), os.O_APPEND|os.O_WRONLY, 0)
	ts.Check(err)
	p := ts.MkAbs(args[0])
	_, err = fmt.Fprintf(f, "\n[[attachments]]\nhost_path = %[1]q\nvm_name = %[2]q\nmode = \"shared-root\"\naccess = \"rw\"\nguest_dst = %[1]q\ntag = \"\"\n", p, args[1])
	ts.Check(errors.Join(err, f.Close()))
}

// cmdTemplate replaces ARG1, ARG2, ... in a file and writes the result to out.xml: template FILE ARG...
// It replaces MARK4242 by aivm's mark for the owner with uid 4242.
func cmdTemplate(ts *testscript.TestScript, neg bool, args []string) {
	text := strings.ReplaceAll(ts.ReadFile(args[0]), "MARK4242", virt.MarkXML(4242))
	for i, a := range args[1:] {
		text = strings.ReplaceAll(text, fmt.Sprintf("ARG%d", i+1), a)
	}
	ts.Check(os.WriteFile(ts.MkAbs("out.xml"), []byte(text), 0o644))
}

// cmdSmallfs mounts a tmpfs of a size and, with "full", fills it: smallfs SIZE DIR [full].
func cmdSmallfs(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: smallfs SIZE DIR [full]")
	}
	dir := ts.MkAbs(args[1])
	ts.Check(os.MkdirAll(dir, 0o755))
	ts.Check(unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755,size="+args[0]))
	ts.Defer(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	if len(args) > 2 {
		f, err := os.Create(filepath.Join(dir, "ballast"))
		ts.Check(err)
		defer f.Close()
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, 4096))
		}
		if !errors.Is(err, unix.ENOSPC) {
			ts.Fatalf("filling %s: %v", dir, err)
		}
	}
}

// cmdReadonly makes a directory a read-only mount, to which root cannot write either: readonly DIR.
// With "!" it unmounts it.
func cmdReadonly(ts *testscript.TestScript, neg bool, args []string) {
	dir := ts.MkAbs(args[0])
	if neg {
		ts.Check(unix.Unmount(dir, unix.MNT_DETACH))
		return
	}
	ts.Check(unix.Mount(dir, dir, "", unix.MS_BIND, ""))
	ts.Check(unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
	ts.Defer(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// cmdChanges allows the script to change libvirt from here on. At the end of the script it removes the
// domains and networks with the script's names, and the pool at $BASE.
func cmdChanges(ts *testscript.TestScript, neg bool, args []string) {
	ts.Setenv(changeEnv, "1")
	vm, net, base := ts.Getenv("VM"), ts.Getenv("NET"), ts.Getenv("BASE")
	ts.Defer(func() {
		for _, n := range strings.Fields(virsh("list", "--all", "--name")) {
			if n == vm || strings.HasPrefix(n, vm+"-") {
				virsh("destroy", n)
				virsh("undefine", n)
			}
		}
		for _, n := range []string{net, net + "-2"} {
			virsh("net-destroy", n)
			virsh("net-undefine", n)
			_ = os.Remove("/var/lib/aivm/manifest/net-" + n + ".json")
		}
		for _, n := range strings.Fields(virsh("pool-list", "--all", "--name")) {
			if strings.Contains(virsh("pool-dumpxml", n), "<path>"+base+"</path>") {
				virsh("pool-destroy", n)
				virsh("pool-undefine", n)
			}
		}
	})
}

// cmdHints checks that the last command's stderr has one error line and at least one hint, and runs the
// hints' commands, with --dry-run where they have one. With "alone", stderr must contain nothing else:
// hints [alone].
func cmdHints(ts *testscript.TestScript, neg bool, args []string) {
	stderr := ts.ReadFile("stderr")
	var errs, count int
	for line := range strings.Lines(stderr) {
		switch {
		case strings.HasPrefix(line, "error: "):
			errs++
			if text := strings.TrimSpace(line); strings.HasSuffix(text, ".") && !strings.HasSuffix(text, "...") {
				ts.Fatalf("the error ends with a full stop: %s", text)
			}
		case strings.HasPrefix(line, "hint: "):
			count++
		case strings.HasPrefix(line, "warning: "):
		default:
			if slices.Contains(args, "alone") {
				ts.Fatalf("stderr has more than an error and hints: %q", line)
			}
		}
	}
	if errs != 1 || count == 0 {
		ts.Fatalf("%d errors and %d hints, want one error and at least one hint", errs, count)
	}
	sudos := len(sudoRuns(ts))
	folder := filepath.Join(ts.Getenv("WORK"), "folder-of-a-hint")
	ts.Check(os.MkdirAll(folder, 0o755))
	fill := strings.NewReplacer("vm create NAME", "vm create spare", "NAME", ts.Getenv("VM"), "FOLDER", folder, "PROGRAM", "true", "FILE", ts.Getenv("WORK")+"/hintfile", "PATH", ts.Getenv("WORK")+"/elsewhere")
	for _, h := range hints.Of(stderr) {
		bad := hints.Check(h, hints.Hint{}, fill, hints.Error(stderr), func(args []string) (int, string) { return runHint(ts, args) })
		if bad != "" && !slices.Contains(args, "another") {
			ts.Fatalf("the hint %q, %q does not work: %s", h.Text, h.Command, bad)
		}
	}
	counted, _ := strconv.Atoi(ts.Getenv("SUDOCOUNTED"))
	ts.Setenv("SUDOCOUNTED", strconv.Itoa(counted+len(sudoRuns(ts))-sudos))
}

// hintEnv lists the variables of the script's environment that a hint's command gets: none that kills it
// or allows it to change libvirt.
var hintEnv = []string{
	"HOME", "USER", "PATH", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "AIVM_SSH_CONFIG", "HTTPS_PROXY", "TERM", "LC_ALL", codeEnv, "EDITOR", "VISUAL",
	"VIRTUAL_ENV", "SSL_CERT_FILE", "CURL_HOME", "GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL",
}

// runHint runs aivm in the script's working directory.
func runHint(ts *testscript.TestScript, args []string) (status int, stderr string) {
	if len(args) > 1 && args[0] == "config" && args[1] == "edit" { // needs a terminal
		return 0, ""
	}
	c := exec.Command("aivm", args...)
	c.Dir = ts.MkAbs(".")
	for _, k := range hintEnv {
		if v := ts.Getenv(k); v != "" {
			c.Env = append(c.Env, k+"="+v)
		}
	}
	var b strings.Builder
	c.Stderr = &b
	err := c.Run()
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) {
		ts.Fatalf("aivm %v: %v", args, err)
	}
	// Without a VM, a hint about VMs cannot be followed to its end.
	// Nor does a hint about "." where the script itself is, around its home.
	if strings.Contains(b.String(), "no VM definitions found in config store") || strings.Contains(b.String(), ts.Getenv("WORK")+" is not shared: it holds the home") {
		return 0, ""
	}
	return c.ProcessState.ExitCode(), b.String()
}

// cmdSudocount checks how often this script started sudo since the last sudocount, according to sudo's
// log: sudocount N.
func cmdSudocount(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	runs := sudoRuns(ts)
	counted, _ := strconv.Atoi(ts.Getenv("SUDOCOUNTED"))
	ts.Setenv("SUDOCOUNTED", strconv.Itoa(len(runs)))
	if got := len(runs) - counted; got != want {
		ts.Fatalf("sudo was started %d times, want %d:\n%s", got, want, strings.Join(runs[counted:], ""))
	}
}

// sudoRuns returns the lines of sudo's log that belong to this script.
func sudoRuns(ts *testscript.TestScript) (out []string) {
	b, err := os.ReadFile(ts.Getenv("SUDOLOG"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		ts.Fatalf("%v", err)
	}
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, "PWD="+ts.Getenv("WORK")+" ") && strings.Contains(line, "COMMAND=") {
			out = append(out, line)
		}
	}
	return out
}

// cmdJSON checks a value in JSON: json FILE .path.0.key [VALUE]. VALUE is JSON or a plain string. With
// "!" the path must not exist.
func cmdJSON(ts *testscript.TestScript, neg bool, args []string) {
	var v any
	text := strings.TrimSpace(ts.ReadFile(args[0]))
	// Of several objects, e.g. warnings before an error, the last one is checked.
	ts.Check(json.Unmarshal([]byte(text[strings.LastIndexByte(text, '\n')+1:]), &v))
	found := true
	for _, k := range strings.Split(strings.TrimPrefix(args[1], "."), ".") {
		if k == "" {
			continue
		}
		switch x := v.(type) {
		case map[string]any:
			v, found = x[k]
		case []any:
			i, err := strconv.Atoi(k)
			if found = err == nil && i < len(x); found {
				v = x[i]
			}
		default:
			found = false
		}
		if !found {
			break
		}
	}
	if found == neg {
		ts.Fatalf("%s: exists: %v", args[1], found)
	}
	if neg || len(args) < 3 {
		return
	}
	var want any
	if json.Unmarshal([]byte(args[2]), &want) != nil {
		want = args[2]
	}
	if d := cmp.Diff(want, v); d != "" {
		ts.Fatalf("%s (-want +got):\n%s", args[1], d)
	}
}
