package secretscan

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf16"
)

// token is one that no scanner of this repository reports.
const token = "gh" + "p_R7kQ2mV9xT4bN8cZ1wJ6hL3pD5sF0gYa2Eu"

func only(t *testing.T, what string, data []byte, want ...Secret) {
	t.Helper()
	got, err := Scan("file", data)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if len(got) != len(want) {
		t.Errorf("%s: %v, want %v", what, got, want)
		return
	}
	for i := range got {
		if got[i] != want[i] {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
}

func inUTF16(text string, order binary.AppendByteOrder) []byte {
	var out []byte
	for _, u := range utf16.Encode([]rune(text)) {
		out = order.AppendUint16(out, u)
	}
	return out
}

// TestNothingHides: a secret is found wherever it is in a file, and whatever is beside it.
func TestNothingHides(t *testing.T) {
	gh := Secret{2, "a GitHub token"}
	text := "first\n" + token + "\n"
	only(t, "plain", []byte(text), gh)
	only(t, "CRLF", []byte(strings.ReplaceAll(text, "\n", "\r\n")), gh)
	only(t, "UTF-8 with a mark", []byte("\xef\xbb\xbf"+text), gh)
	only(t, "UTF-16LE", append([]byte("\xff\xfe"), inUTF16(text, binary.LittleEndian)...), gh)
	only(t, "UTF-16BE", append([]byte("\xfe\xff"), inUTF16(text, binary.BigEndian)...), gh)
	only(t, "UTF-16LE without a mark", inUTF16(text, binary.LittleEndian), gh)
	only(t, "UTF-16LE, an odd number of bytes", append(append([]byte("\xff\xfe"), inUTF16("first\n", binary.LittleEndian)...), append(inUTF16(token+"\n", binary.LittleEndian), 'x')...), gh)
	only(t, "UTF-32LE", []byte("\xff\xfe\x00\x00"+strings.Join(strings.Split(text, ""), "\x00\x00\x00")+"\x00\x00\x00"), gh)
	only(t, "a NUL in text", []byte("first\x00\n"+token+"\n"), Secret{3, "a GitHub token"})
	only(t, "an environment", []byte("A=1\x00DB_PASSWORD=Tannenzapfen3\x00"), Secret{2, "a value called db_password"})
	only(t, "binary", []byte("\x7fELF\x01\x02\x00\x03\x04\x05\x06\x00\x0e\x0f"+token+"\x00\x01\x02"), Secret{0, "a GitHub token"})
	only(t, "UTF-16 in a binary file", append([]byte("\x7fELF\x01\x02\x00\x03\x04\x05\x06\x00\x0e\x0f"), inUTF16("\x01"+token+"\x02", binary.LittleEndian)...), Secret{0, "a GitHub token"})
	only(t, "at the end of 16 MiB", append(bytes.Repeat([]byte("alias ll='ls -l'\n"), 16<<20/17), token...), Secret{16<<20/17 + 1, "a GitHub token"})
	only(t, "at the end of a line of 8 MiB", append(bytes.Repeat([]byte("word "), 8<<20/5), token...), Secret{1, "a GitHub token"})
	only(t, "a password at the end of a line of 1 MiB", append(bytes.Repeat([]byte("word "), 1<<20/5), "DB_PASSWORD=Tannenzapfen3"...), Secret{1, "a value called db_password"})
	for at := pieceSize - 60; at < pieceSize+60; at++ {
		only(t, "a password where a long line is cut", []byte(strings.Repeat(".", at)+" DB_PASSWORD=Tannenzapfen3 "+strings.Repeat(".", pieceSize)), Secret{1, "a value called db_password"})
	}
	only(t, "behind an example", []byte("ghp_"+strings.Repeat("x", 36)+" "+token), Secret{1, "a GitHub token"})
	only(t, "two on a line", []byte("GITHUB="+token+" DB_PASSWORD=Tannenzapfen3\n"), Secret{1, "a GitHub token"}, Secret{1, "a value called db_password"})
	only(t, "gitleaks' mark for what it ignores", []byte(token+" # gitleaks:allow\n"), Secret{1, "a GitHub token"})
	only(t, "in lines of other letters", []byte("K\u0130\u1e9e\n"+token), gh)
	for _, name := range []string{"go.sum", "package-lock.json", "x.svg", "node_modules/a", "vendor/github.com/a", "gitleaks.toml", "a.pdf"} {
		if got, err := Scan("/home/ann/"+name, []byte(token)); err != nil || len(got) != 1 {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if got, err := Scan("/home/ann/cert.P12", []byte("\x30\x82")); err != nil || len(got) != 1 || got[0].Line != 0 {
		t.Errorf("%v, %v", got, err)
	}
}

// TestEveryPlace: each place is reported, by line, also if there are thousands.
func TestEveryPlace(t *testing.T) {
	only(t, "three lines", []byte("a\n"+token+"\nDB_PASSWORD=Tannenzapfen3\nx\n"+token), Secret{2, "a GitHub token"}, Secret{3, "a value called db_password"}, Secret{5, "a GitHub token"})
	got, err := Scan("f", []byte(strings.Repeat(token+"\n", 3000)))
	if err != nil || len(got) != 3000 || got[2999].Line != 3000 {
		t.Errorf("%d places, %v", len(got), err)
	}
}

// cpuTime returns the time that this process has used the processors, which does not depend on what
// else runs on the machine.
func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		t.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// TestScanIsBounded: texts made to be slow are searched, or refused, after seconds of work: a guest can
// write such a file into a folder from which settings are listed. Here, a 32nd of the greatest size of a
// file with a 32nd of the work.
func TestScanIsBounded(t *testing.T) {
	words := map[string]bool{}
	for _, r := range index().rules {
		for _, k := range r.keywords {
			words[k] = true
		}
	}
	var all strings.Builder
	for w := range words {
		all.WriteString(w + "=")
	}
	const size = 512 << 10
	defer func(n int) { maxWork = n }(maxWork)
	maxWork /= 32
	fill := func(s string) []byte { return bytes.Repeat([]byte(s), size/len(s)) }
	for what, data := range map[string][]byte{
		"every keyword":             fill(all.String()),
		"every keyword, in lines":   fill(strings.ReplaceAll(all.String(), "=", " = \n")),
		"names":                     fill("key="),
		"names in lines":            fill("api_key = \n"),
		"a token's start":           fill("ops_eyJ"),
		"addresses":                 fill("a://b:c"),
		"quotes":                    fill(`password="`),
		"colons":                    fill("a:b:"),
		"empty lines":               fill("\n"),
		"kubernetes":                fill("kind: secret\ndata:\n a: b\n"),
		"curl":                      fill("curl -H \\\n"),
		"private keys":              fill("-----BEGIN PRIVATE KEY-----\n"),
		"names of 100 characters":   fill(strings.Repeat("secret_", 14) + "x "),
		"binary with every keyword": append([]byte{0, 1, 2, 3}, fill(all.String())...),
	} {
		began := cpuTime(t)
		_, err := Scan("f.yaml", data)
		if took := cpuTime(t) - began; took > 2*time.Second {
			t.Errorf("%s: %v", what, took)
		} else {
			t.Logf("%s: %v, %v", what, took.Round(time.Millisecond), err)
		}
		if err != nil && !errors.Is(err, ErrTooMuch) {
			t.Errorf("%s: %v", what, err)
		}
	}
	// What people write is not refused.
	if _, err := Scan("f", bytes.Repeat([]byte("export API_KEY=$(pass show api) TOKEN=$TOKEN # the token of api.example.org\n"), size/77)); err != nil {
		t.Error(err)
	}
}
