package sshcfg

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var fixed = Layout{Home: "/h", ConfigDir: "/h/.config/aivm/ssh", StateDir: "/h/s"}

const (
	inc     = "Include /h/.config/aivm/ssh/*.conf\n"
	blk     = "# >>> aivm store /h/.config/aivm/ssh >>>\n" + inc + "# <<< aivm store /h/.config/aivm/ssh <<<\n"
	crlf    = "# >>> aivm store /h/.config/aivm/ssh >>>\r\nInclude /h/.config/aivm/ssh/*.conf\r\n# <<< aivm store /h/.config/aivm/ssh <<<\r\n"
	bomText = "\xef\xbb\xbf"
	// The block that earlier versions wrote.
	earlier = "# >>> aivm >>>\n" + inc + "# <<< aivm <<<\n"
)

func TestEnsureInclude(t *testing.T) {
	other := strings.ReplaceAll(blk, "/h/.config", "/other")
	old := strings.ReplaceAll(earlier, "/h/.config", "/old")
	bare := "Include /other/aivm/ssh/*.conf\n"
	for name, c := range map[string][2]string{
		"empty":                      {"", blk},
		"only a host":                {"Host x\n  User y\n", blk + "Host x\n  User y\n"},
		"no final newline":           {"Host x", blk + "Host x"},
		"crlf":                       {"Host x\r\n\tUser y\r\n", crlf + "Host x\r\n\tUser y\r\n"},
		"mostly lf":                  {"a\nb\nc\r\n", blk + "a\nb\nc\r\n"},
		"byte order mark":            {bomText + "Host x\n", bomText + blk + "Host x\n"},
		"byte order mark alone":      {bomText, bomText + blk},
		"comment first":              {"# mine\nHost x\n", blk + "# mine\nHost x\n"},
		"present":                    {blk + "Host x\n", blk + "Host x\n"},
		"present with crlf":          {crlf + "Host x\r\n", crlf + "Host x\r\n"},
		"present below comments":     {"# mine\n\n" + blk + "Host x\n", "# mine\n\n" + blk + "Host x\n"},
		"present after the mark":     {bomText + blk + "Host x\n", bomText + blk + "Host x\n"},
		"below a host":               {"Host x\n  User y\n" + blk + "  Port 1\n", blk + "Host x\n  User y\n  Port 1\n"},
		"below a global option":      {"User y\n" + blk, blk + "User y\n"},
		"below another include":      {"Include other\n" + blk, blk + "Include other\n"},
		"below a host, mark":         {bomText + "Host x\n" + blk + "z\n", bomText + blk + "Host x\nz\n"},
		"end without newline":        {"Host x\n" + strings.TrimSuffix(blk, "\n"), blk + "Host x\n"},
		"another store":              {"# c\n" + other + "Host x\n", blk + "# c\n" + other + "Host x\n"},
		"another store, mark":        {bomText + other + "Host x\n", bomText + blk + other + "Host x\n"},
		"another store first":        {other + blk + "Host x\n", other + blk + "Host x\n"},
		"another store's, and more":  {strings.Replace(other, "Inc", "User u\nInc", 1) + blk, blk + strings.Replace(other, "Inc", "User u\nInc", 1)},
		"another's with no marker":   {bare + blk, blk + bare},
		"another's old one":          {old + "Host x\n", blk + old + "Host x\n"},
		"another's old one first":    {old + blk + "Host x\n", old + blk + "Host x\n"},
		"another's that is damaged":  {strings.Split(other, "\n")[0] + "\nHost x\n", blk + strings.Split(other, "\n")[0] + "\nHost x\n"},
		"another's is inside":        {strings.Replace(blk, "Inc", other+"Inc", 1) + "Host x\n", blk + other + "Host x\n"},
		"of an earlier version":      {earlier + "Host x\n", earlier + "Host x\n"},
		"earlier, below a host":      {"Host x\n" + earlier, blk + "Host x\n"},
		"both, and one is enough":    {earlier + "Host x\n" + blk, blk + "Host x\n"},
		"emptied":                    {strings.Replace(blk, inc, "", 1) + "Host x\n", blk + "Host x\n"},
		"emptied, no store":          {"# >>> aivm >>>\n# <<< aivm <<<\nHost x\n", blk + "# >>> aivm >>>\n# <<< aivm <<<\nHost x\n"},
		"lines of the user inside":   {"# >>> aivm >>>\nHost q\n" + inc + "# note\n# <<< aivm <<<\nHost x\n", blk + "Host q\n# note\nHost x\n"},
		"manual":                     {inc + "Host x\n", inc + "Host x\n"},
		"manual, tilde and quotes":   {"# c\nInclude other\ninclude=\"~/.config/aivm/ssh/*.conf\" # mine\nHost x\n", "# c\nInclude other\ninclude=\"~/.config/aivm/ssh/*.conf\" # mine\nHost x\n"},
		"manual but below a host":    {"Host x\n" + inc, blk + "Host x\n" + inc},
		"manual but commented":       {"#" + inc, blk + "#" + inc},
		"blocks of 0.3":              {"# >>> aivm:a >>>\nHost a\n# <<< aivm:a <<<\n", blk + "# >>> aivm:a >>>\nHost a\n# <<< aivm:a <<<\n"},
		"not text":                   {"\x00\xff\n\r\r\n", blk + "\x00\xff\n\r\r\n"},
		"indented markers":           {"  # >>> aivm >>> \n  " + inc + "\t# <<< aivm <<<\n", "  # >>> aivm >>> \n  " + inc + "\t# <<< aivm <<<\n"},
		"like a marker, but no more": {"# >>> aivm >>> x\n", blk + "# >>> aivm >>> x\n"},
	} {
		got, err := ensureInclude([]byte(c[0]), fixed.storeIn([]byte(c[0])))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if string(got) != c[1] {
			t.Errorf("%s:\n got %q\nwant %q", name, got, c[1])
		}
	}
}

func TestRemoveInclude(t *testing.T) {
	for name, c := range map[string][2]string{
		"none":     {"Host x\n", "Host x\n"},
		"top":      {blk + "Host x\n", "Host x\n"},
		"middle":   {"a\n" + blk + "b", "a\nb"},
		"crlf":     {crlf + "b\r\n", "b\r\n"},
		"mark":     {bomText + blk + "b\n", bomText + "b\n"},
		"earlier":  {earlier + "b\n", "b\n"},
		"both":     {blk + "a\n" + earlier + "b\n", "a\nb\n"},
		"others":   {strings.ReplaceAll(earlier+blk, "/h/", "/o/") + "b\n", strings.ReplaceAll(earlier+blk, "/h/", "/o/") + "b\n"},
		"the user": {"# >>> aivm >>>\n" + inc + "Host q\n# <<< aivm <<<\n", "Host q\n"},
		"manual":   {inc, inc},
	} {
		got, err := removeInclude([]byte(c[0]), fixed.storeIn([]byte(c[0])))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if string(got) != c[1] {
			t.Errorf("%s:\n got %q\nwant %q", name, got, c[1])
		}
	}
}

func TestDamagedMarkers(t *testing.T) {
	b, e := beginMarker+"\n", endMarker+"\n"
	for name, c := range map[string]struct{ in, what, remove string }{
		"no end":          {"Host x\n" + b + inc, "line 2 begins", "remove line 2 of"},
		"no begin":        {inc + e, "line 2 ends", "remove line 2 of"},
		"reversed":        {e + inc + b, "end marker on line 1", "remove lines 1, 3 of"},
		"twice":           {earlier + "x\n" + earlier, "2 times, again on line 5", "remove lines 5, 6, 7 of"},
		"two begins":      {b + b + e, "line 2", "remove lines 1, 2, 3 of"},
		"two ends":        {b + e + e, "line 3", "remove lines 1, 2, 3 of"},
		"nested":          {b + b + e + e, "line 2", "remove lines 1, 2, 3, 4 of"},
		"crlf, no end":    {"\r\n" + strings.TrimSuffix(b, "\n") + "\r\n", "line 2 begins", "remove line 2 of"},
		"one in another":  {b + "# >>> aivm store HERE >>>\n" + inc + e + "# <<< aivm store HERE <<<\n", "inside the one", "remove lines 1, 2, 4, 5 of"},
		"present, no end": {"# >>> aivm store HERE >>>\n", "line 1 begins", "remove line 1 of"},
		"after the mark":  {bomText + e, "line 1 ends", "remove line 1 of"},
	} {
		l := newLayout(t)
		path := l.sshConfig()
		c.in = strings.ReplaceAll(strings.ReplaceAll(c.in, "HERE", l.ConfigDir), fixed.ConfigDir, l.ConfigDir)
		write(t, path, c.in, 0o600)
		as, err := Plan(Observe(l, stanzaFor(l, "a")), stanzaFor(l, "a"))
		if err == nil || len(as) != 0 {
			t.Errorf("%s: planned %v, %v", name, ids(as), err)
			continue
		}
		if !strings.Contains(err.Error(), c.what) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
		if h := hints(err); !strings.Contains(h, c.remove) {
			t.Errorf("%s: hint %q", name, h)
		}
		// Removing the lines that the hint names repairs the markers.
		var m *markerError
		if !errors.As(err, &m) {
			t.Fatalf("%s: %T", name, err)
		}
		gone := map[int]bool{}
		for _, n := range m.remove {
			gone[n] = true
		}
		var rest []byte
		for i, x := range splitLines([]byte(c.in)) {
			if !gone[i+1] {
				rest = append(rest, c.in[x.start:x.end]...)
			}
		}
		if _, err := ensureInclude(rest, l.storeIn(rest)); err != nil {
			t.Errorf("%s: after the repair: %v", name, err)
		}
		if got := read(t, path); got != c.in {
			t.Errorf("%s: the file was written: %q", name, got)
		}
	}
}

// outside returns data without aivm's block: the user's own bytes.
func outside(t *testing.T, data []byte) []byte {
	t.Helper()
	out, err := removeInclude(data, fixed.storeIn(data))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func FuzzEnsureInclude(f *testing.F) {
	for _, s := range []string{"", "Host x\n", bomText, bomText + blk, crlf, "a\r\nb", blk + "Host *\n", earlier + "Host *\n", strings.ReplaceAll(blk, "/h/", "/o/") + "Host *\n" + blk, earlier + strings.ReplaceAll(blk, "/h/", "/o/") + blk, "Host *\n" + blk + "\n", "# >>> aivm >>>\nx\n" + inc + "y\n# <<< aivm <<<", "# >>> aivm >>>\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		keep := bytes.Clone(in)
		once, err := ensureInclude(in, fixed.storeIn(in))
		if !bytes.Equal(in, keep) {
			t.Fatal("the input was changed")
		}
		if err != nil {
			var m *markerError
			if !errors.As(err, &m) || len(m.remove) == 0 {
				t.Fatalf("an error that names no line: %v", err)
			}
			return
		}
		if got, want := outside(t, once), outside(t, in); !bytes.Equal(got, want) {
			t.Fatalf("changed outside the markers:\n got %q\nwant %q", got, want)
		}
		twice, err := ensureInclude(once, fixed.storeIn(once))
		if err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("a second call changes the result: %v\n%q\n%q", err, once, twice)
		}
		ls := splitLines(once)
		if own, _ := fixed.storeIn(once).ownBlocks(ls); len(own) == 0 && !fixed.hasUnmarkedInclude(ls) {
			t.Fatalf("no Include: %q", once)
		} else if len(own) > 0 {
			if !onlyStores(ls[:own[0].first]) {
				t.Fatalf("not first: %q", once)
			}
		}
		if bytes.HasPrefix(in, bom) != bytes.HasPrefix(once, bom) {
			t.Fatalf("byte order mark: %q", once)
		}
	})
}

// TestOtherHostsUnchanged checks with the real ssh that the options of all other hosts are
// the same before and after.
func TestOtherHostsUnchanged(t *testing.T) {
	for name, in := range map[string]string{
		"empty":     "",
		"plain":     "Host x\n  User y\n  Port 2\nHost *\n  Compression yes\n  IdentityFile /k\n",
		"global":    "User everybody\nForwardAgent yes\nHost x\n  User late\n",
		"crlf":      "Host x\r\n  User y\r\nHost *\r\n  Port 7\r\n",
		"match":     "Match host x\n  User m\nMatch all\n  SendEnv FOO\nHost *\n  RemoteForward 9000 localhost:9000\n",
		"tabs":      "host\tx\n\tuser=y\n\tport = 2\n# end",
		"moved":     "Host x\n  User y\n" + blk + "  Port 2\n",
		"multiline": "\n\n# c\nHost x !other\n IdentityFile \"/a b\"\n",
	} {
		l := newLayout(t)
		in = strings.ReplaceAll(in, fixed.ConfigDir, l.ConfigDir)
		write(t, l.sshConfig(), in, 0o600)
		before := map[string]string{}
		for _, h := range []string{"x", "other", "aa"} {
			before[h] = sshG(t, l.sshConfig(), h)
		}
		apply(t, l, stanzaFor(l, "a"))
		for h, want := range before {
			if got := sshG(t, l.sshConfig(), h); got != want {
				t.Errorf("%s: %s:\n%s\nbefore:\n%s", name, h, got, want)
			}
		}
		if !strings.Contains(sshG(t, l.sshConfig(), "a"), "\nhostname 10.77.0.50\n") {
			t.Errorf("%s: the alias is not resolved", name)
		}
	}
}

func TestIncludeLine(t *testing.T) {
	l := newLayout(t)
	l.ConfigDir = filepath.Join(l.Home, "my config", "aivm", "ssh")
	apply(t, l, stanzaFor(l, "a"))
	if s := read(t, l.sshConfig()); !strings.Contains(s, `Include "`+l.ConfigDir+`/*.conf"`) {
		t.Error(s)
	}
	if !strings.Contains(sshG(t, l.sshConfig(), "a"), "\nhostname 10.77.0.50\n") {
		t.Error("ssh does not read a quoted Include")
	}
	for _, dir := range []string{"/a*b", "/a?", "/[x]", "/{a,b}", "/100%", "/a\nb", `/a"b`, "rel", "/${X}"} {
		l.ConfigDir = dir
		if line, err := l.IncludeLine(); err == nil {
			t.Errorf("%q: %s", dir, line)
		}
	}
}

// TestIncludeUnderAnotherHome shows why the Include has an absolute path: ssh expands "~" in
// it with $HOME, although it reads the configuration of the passwd home.
func TestIncludeUnderAnotherHome(t *testing.T) {
	l := newLayout(t)
	apply(t, l, stanzaFor(l, "a"))
	t.Setenv("HOME", t.TempDir())
	if !strings.Contains(sshG(t, l.sshConfig(), "a"), "\nhostname 10.77.0.50\n") {
		t.Error("the alias depends on HOME")
	}
	tilde := filepath.Join(t.TempDir(), "c")
	write(t, tilde, "Include ~/.config/aivm/ssh/*.conf\n", 0o600)
	if strings.Contains(sshG(t, tilde, "a"), "10.77.0.50") {
		t.Error("~ no longer means $HOME: the reason in the package comment is outdated")
	}
	if _, err := os.Stat(l.ConfPath("a")); err != nil {
		t.Error(err)
	}
}
