package secretscan

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"hash/fnv"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestSamplesOfGitleaks measures the search with the examples in the sources of gitleaks' rules
// (testdata/samples.json.gz, made by scripts/gitleaks.sh): of those that its authors call secrets, at
// least 97 of 100 have to be found.
func TestSamplesOfGitleaks(t *testing.T) {
	f, err := os.Open("testdata/samples.json.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	type sample struct {
		Rule, Path, Text string
		Secret           bool
	}
	secrets, found, harmless, alarms := 0, 0, 0, 0
	missed := map[string]int{}
	for d := json.NewDecoder(z); d.More(); {
		var s sample
		if err := d.Decode(&s); err != nil {
			t.Fatal(err)
		}
		got, err := Scan(s.Path, []byte(s.Text))
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case s.Secret:
			secrets++
			if len(got) > 0 {
				found++
			} else {
				missed[s.Rule]++
				if missed[s.Rule] == 1 {
					t.Logf("missed: %s: %q", s.Rule, s.Text)
				}
			}
		default:
			harmless++
			if len(got) > 0 {
				alarms++
			}
		}
	}
	t.Logf("found %d of %d examples (%.2f %%), missed of %v; reported %d of %d that are no secret for one of its rules", found, secrets, 100*float64(found)/float64(secrets), missed, alarms, harmless)
	if secrets < 6000 || found*100 < secrets*97 {
		t.Errorf("found %d of %d examples, want 97 of 100", found, secrets)
	}
}

// counted is what a search of many files found.
type counted struct {
	files, lines, bytes, alarms int
	kinds                       map[string]int
	spent                       time.Duration
}

// countAlarms searches the text files below a directory, of each share of them one, chosen by the hash
// of its path.
func countAlarms(t *testing.T, dir string, share uint32) {
	t.Helper()
	c := counted{kinds: map[string]int{}}
	began := cpuTime(t)
	show := os.Getenv("SHOW_ALARMS")
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		rel, _ := filepath.Rel(dir, name)
		h := fnv.New32a()
		h.Write([]byte(rel))
		if h.Sum32()%share != 0 {
			return nil
		}
		data, err := os.ReadFile(name)
		if err != nil || len(data) > 16<<20 {
			return nil
		}
		if _, binary := decode(data); binary {
			return nil
		}
		found, err := Scan(name, data)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		c.files++
		c.bytes += len(data)
		c.lines += bytes.Count(data, []byte("\n")) + 1
		last := -1
		for _, s := range found {
			c.kinds[s.Kind]++
			if s.Line != last {
				c.alarms++
			}
			last = s.Line
			if show != "" && s.Line > 0 {
				line := strings.Split(string(data), "\n")[s.Line-1]
				t.Logf("%s:%d: %s: %.200s", rel, s.Line, s.Kind, line)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	c.spent = cpuTime(t) - began
	t.Logf("%s: %d files, %d lines, %d bytes in %v of work: %d lines reported (%.4f %%)", dir, c.files, c.lines, c.bytes, c.spent.Round(time.Millisecond), c.alarms, 100*float64(c.alarms)/float64(c.lines))
	if c.alarms*1000 > c.lines {
		t.Errorf("%d of %d lines of %s are reported, more than 1 of 1000: %v", c.alarms, c.lines, dir, c.kinds)
	}
}

// TestFewAlarms measures how many lines of files that contain no secrets are reported: all text files
// in /etc, and a share of those in the cache of Go's modules. All findings count as false, also the
// keys and passwords in tests of cryptography.
func TestFewAlarms(t *testing.T) {
	countAlarms(t, "/etc", 1)
	countAlarms(t, moduleCache(t), moduleShare)
}

func moduleCache(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOMODCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}
