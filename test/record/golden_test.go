package record

import (
	"bytes"
	"crypto/sha256"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// goldenDir is absolute, because cases change the working directory.
var goldenDir = func() string {
	p, err := filepath.Abs("testdata/golden")
	if err != nil {
		panic(err)
	}
	return p
}()

func sorted[V any](m map[string]V) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func indent(s string) string {
	s = strings.TrimRight(s, "\n")
	if s == "" {
		return ""
	}
	return "  " + strings.ReplaceAll(s, "\n", "\n  ") + "\n"
}

func quoteAll(argv []string) string {
	var out []string
	for _, a := range argv {
		switch {
		case strings.Count(a, "\n") > 1:
			out = append(out, "[\n"+strings.TrimRight(indent(a), "\n")+"\n]")
		default:
			out = append(out, "["+a+"]")
		}
	}
	return strings.Join(out, " ")
}

// visible replaces NUL and CR bytes by \0 and \r.
func visible(b []byte) string {
	return strings.NewReplacer("\x00", "\\0\n", "\r", "\\r").Replace(string(b))
}

// blob returns the content of a file or stream: text unchanged, other data as size and digest.
func blob(b []byte) string {
	if utf8.Valid(b) && len(b) < 64<<10 {
		return visible(b)
	}
	return fmt.Sprintf("(%d bytes, sha256 %x)\n", len(b), sha256.Sum256(b))
}

func stdinText(b []byte) string {
	switch {
	case len(b) == 0:
		return "\n"
	case len(b) > 512 && string(b[257:262]) == "ustar":
		return "\nstdin, an archive:\n" + indent(tarText(b))
	case utf8.Valid(b) && !bytes.ContainsRune(b, 0):
		return "\nstdin:\n" + indent(string(b))
	}
	return "\nstdin: binary\n" // a git pack: its bytes depend on the compressor
}

// seedText returns the files of a seed disk (ISO 9660).
func seedText(b []byte) string {
	const sector = 2048
	var out strings.Builder
	root := b[20*sector : 21*sector]
	for at := 0; at < len(root) && root[at] > 0; at += int(root[at]) {
		r := root[at:]
		name := string(r[33 : 33+int(r[32])])
		if len(name) < 2 {
			continue
		}
		le := func(o int) int { return int(r[o]) | int(r[o+1])<<8 | int(r[o+2])<<16 | int(r[o+3])<<24 }
		data := b[le(2)*sector : le(2)*sector+le(10)]
		text := string(data)
		if strings.HasPrefix(text, "#cloud-config\n{") {
			text = strings.NewReplacer(`,"`, ",\n\"", `\n`, "\\n\n").Replace(text)
		}
		out.WriteString(strings.ToLower(strings.TrimSuffix(name, ".;1")) + ":\n" + indent(text))
	}
	return out.String()
}

// imageBytes returns a guest image: a qcow2 header, and this content in a cluster.
func imageBytes(content string) []byte {
	b := (&qcow{capacity: 3 << 30}).bytes()
	copy(b[(20+1)*cluster:], content)
	return b
}

// tree returns mode and content of every file below the user's home.
func tree(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(homeDir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.Name() == ".git" && d.IsDir():
			out[p] = "mode " + st.Mode().String() + "\n" + gitText(p)
			return fs.SkipDir
		case d.IsDir():
			out[p] = "mode " + st.Mode().String() + "\n"
		case st.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(p)
			out[p] = "link to " + to + "\n"
			return err
		default:
			b, err := os.ReadFile(p)
			out[p] = "mode " + st.Mode().String() + "\n" + indent(blob(b))
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// gitText returns HEAD, config, refs and info of a git directory, without objects, hooks and logs.
func gitText(dir string) string {
	var b strings.Builder
	_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(dir, p)
		if err != nil || d.IsDir() {
			if rel == "objects" || rel == "hooks" || rel == "logs" {
				return fs.SkipDir
			}
			return nil
		}
		if rel == "HEAD" || rel == "config" || strings.HasPrefix(rel, "refs/") || strings.HasPrefix(rel, "info/") && rel != "info/exclude" {
			c, _ := os.ReadFile(p)
			b.WriteString("  " + rel + "\n" + indent(indent(string(c))))
		}
		return nil
	})
	return b.String()
}

func treeDiff(before, after map[string]string) string {
	var b strings.Builder
	all := map[string]bool{}
	for p := range before {
		all[p] = true
	}
	for p := range after {
		all[p] = true
	}
	for _, p := range sorted(all) {
		was, there := before[p]
		is, now := after[p]
		switch {
		case !now:
			b.WriteString("- " + p + "\n")
		case !there:
			b.WriteString("+ " + p + "\n" + indent(is))
		case was != is:
			b.WriteString("* " + p + "\n" + indent(is))
		}
	}
	return b.String()
}

// numbering replaces values that differ in each run by KIND-NUMBER, in the order of their occurrence.
type numbering struct {
	seen map[string]string
	n    map[string]int
}

func (n *numbering) of(kind, what string) string {
	if n.seen[what] == "" {
		n.n[kind]++
		n.seen[what] = fmt.Sprintf("%s-%d", kind, n.n[kind])
	}
	return n.seen[what]
}

var numbered = []struct {
	kind string
	re   *regexp.Regexp
}{
	{"PRIVATE-KEY", regexp.MustCompile(`-----BEGIN OPENSSH PRIVATE KEY-----[^-]*-----END OPENSSH PRIVATE KEY-----`)},
	{"KEY", regexp.MustCompile(`AAAAC3NzaC1lZDI1NTE5AAAA[A-Za-z0-9+/=]+`)},
	{"FINGERPRINT", regexp.MustCompile(`SHA256:[A-Za-z0-9+/]{43}`)},
	{"UUID", regexp.MustCompile(`\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b`)},
}

var replaced = []struct {
	re *regexp.Regexp
	by string
}{
	{regexp.MustCompile(`"uid":\d+,"gid":\d+,"dev":\d+,"ino":\d+`), `"uid":OWNER,"gid":OWNER,"dev":DEV,"ino":INODE`},
	{regexp.MustCompile(`X-mount\.idmap='[^']*'`), `X-mount.idmap='MAP'`},
	{regexp.MustCompile(`(folder \S+ \S+ \S+ )\d+ `), "${1}INODE "},
	{regexp.MustCompile(`(?m)^(\s*(?:await ')?)\d+ (/run/aivm/)`), "${1}INODE ${2}"},
	{regexp.MustCompile(`(?m)^(\s*41ed )(\d{2,}) (1000 1000 )`), "${1}INODE ${3}"},
	{regexp.MustCompile(`(?m)(: \w+) \(\d+(\.\d+)? s\)$`), "$1 (N seconds)"},
	{regexp.MustCompile(`\b\d+(\.\d+)? ?s\b`), "N s"},
	{regexp.MustCompile(`(?m)^\S.* \((\d+ %, )?([0-9.]+ .?i?B.*, )?N s\)\n`), ""}, // progress
	{regexp.MustCompile(`"seconds": ?\{[^}]*\}`), `"seconds": {}`},
	{regexp.MustCompile(`"id":"[0-9a-f]{32}"`), `"id":"ID"`},
	{regexp.MustCompile(`(?m)^(\s*)[0-9a-f]{32}(\{"id")`), "${1}ID${2}"},
	{regexp.MustCompile(`\./\.local/state/aivm/sync\.[0-9a-f]{32}`), "./.local/state/aivm/sync.ID"},
	{regexp.MustCompile(`\d+:\d+:\d{10}\.\d{10}:\d{10}\.\d{10} `), "INODE:SIZE:MTIME:CTIME "},
	{regexp.MustCompile(`(?m)^\w+ N s( · .*)?$`), "TIMING"},
	{regexp.MustCompile(`(?m)^\w+ \d+\.\d\d( s)?( · .*)?$`), "TIMING"},
	{regexp.MustCompile(`inode is \d+, on this machine it is \d+`), "inode is N, on this machine it is M"},
	{regexp.MustCompile(`"(mtime|mtime_ns|inode|ino|dev|ctime|ctime_ns)": ?\d+`), `"$1":N`},
	{regexp.MustCompile(`@\d{10}\.\d{9}`), "@NOW"},
	{regexp.MustCompile(`\d+ days (ahead|behind)`), "N days $1"},
	{regexp.MustCompile(`"release": "20\d\d-\d\d-\d\d"`), `"release": "DAY"`},
	{regexp.MustCompile(`, of uid \d+\)`), ", of uid OWNER)"},
	{regexp.MustCompile(`127\.0\.0\.1:\d{4,5}`), "127.0.0.1:PORT"},
	{regexp.MustCompile(`\{"host":"[0-9a-f]{64}"`), `{"host":"STAMP"`}, // a digest that includes modification times
	{regexp.MustCompile(`process \d+`), "process N"},
	{regexp.MustCompile(`/\.prepare-\d+`), "/.prepare-N"},
	{regexp.MustCompile(`20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)`), "TIME"},
}

// normalize replaces everything that differs from run to run.
func normalize(s string) string {
	n := &numbering{seen: map[string]string{}, n: map[string]int{}}
	for _, k := range numbered {
		s = k.re.ReplaceAllStringFunc(s, func(m string) string {
			if strings.Contains(hostPublic, m) {
				return "HOSTS-KEY"
			}
			if strings.Contains(publicKey, m) {
				return "PERSONS-KEY"
			}
			return n.of(k.kind, m)
		})
	}
	for _, r := range replaced {
		s = r.re.ReplaceAllString(s, r.by)
	}
	return strings.ReplaceAll(s, "(N seconds)", "(N s)")
}

// longText is the number of lines above which a text gets its own file.
const longText = 30

var textFiles = map[string]bool{}

// splitLongTexts moves long blocks of indented lines into their own files.
func splitLongTexts(t *testing.T, s string) string {
	t.Helper()
	lines := strings.Split(s, "\n")
	var out []string
	for i := 0; i < len(lines); {
		j := i
		for j < len(lines) && strings.HasPrefix(lines[j], "  ") || j > i && j < len(lines)-1 && lines[j] == "" && strings.HasPrefix(lines[j+1], "  ") {
			j++
		}
		if j-i <= longText {
			if j == i {
				j++
			}
			out = append(out, lines[i:j]...)
			i = j
			continue
		}
		var b strings.Builder
		for _, l := range lines[i:j] {
			b.WriteString(strings.TrimPrefix(l, "  ") + "\n")
		}
		sum := sha256.Sum256([]byte(b.String()))
		name := fmt.Sprintf("text-%x.txt", sum[:6])
		textFiles[name] = true
		if *update {
			if err := os.WriteFile(filepath.Join(goldenDir, name), []byte(b.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		} else if _, err := os.Stat(filepath.Join(goldenDir, name)); err != nil {
			t.Errorf("no golden file has this text:\n%s", b.String())
		}
		out = append(out, fmt.Sprintf("  (%d lines: %s)", j-i, name))
		i = j
	}
	return strings.Join(out, "\n")
}
