package settingsync

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestEverySecretIsNamed: a report names each place, ten of a file, and how many there are.
func TestEverySecretIsNamed(t *testing.T) {
	m := newMachine(t)
	token := "gh" + "p_aB3dE5fG7hI9jK1lM3nO5pQ7rS9tU1vW3xY5"
	m.write(m.host, ".bashrc", "a\nexport GITHUB_TOKEN="+token+"\nexport PGPASSWORD=Sommer"+"regen7 X="+token+"\n", 0o644)
	m.write(m.host, ".env", strings.Repeat("T="+token+"\n", 25), 0o644)
	m.write(m.host, ".wide", "\xff\xfe"+strings.Join(strings.Split("\n"+token, ""), "\x00")+"\x00", 0o644)
	m.write(m.host, ".config/Code/User/settings.json", "{\n\"a\": [\"x\",\n\""+token+"\",\n\""+token+"\"]}\n", 0o644)
	m.opts.Paths = []string{"~/.bashrc", "~/.env", "~/.wide", "~/.config/Code/User/settings.json"}
	r := m.sync()
	var got []string
	hints := 0
	for _, p := range r.Report.Problems {
		got = append(got, strings.ReplaceAll(strings.TrimPrefix(p.String(), m.host+"/"), " was found, so it is not sent", ""))
		if p.Hint != "" {
			hints++
		}
	}
	want := []string{".bashrc:2: a GitHub token", ".bashrc:3: a value called pgpassword", ".bashrc:3: a GitHub token"}
	for i := range 10 {
		want = append(want, fmt.Sprintf(".env:%d: a GitHub token", i+1))
	}
	want = append(want, ".env: 25 places with secrets were found, of which the first 10 are named", ".wide:2: a GitHub token", ".config/Code/User/settings.json:3: a GitHub token", ".config/Code/User/settings.json:4: a GitHub token")
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if hints != 4 {
		t.Errorf("%d hints, want one for each file", hints)
	}
	if strings.Contains(fmt.Sprint(r.Report), "aB3dE5") {
		t.Error("the report contains the secret")
	}
}

// TestUnsearchableFileIsRefused: a file that cannot be searched completely is not sent.
func TestUnsearchableFileIsRefused(t *testing.T) {
	m := newMachine(t)
	m.write(m.host, "slow.yaml", strings.Repeat("kind: secret\n", 9<<20/13), 0o644)
	m.opts.Paths = []string{"~/slow.yaml"}
	r := m.sync()
	if len(r.Report.Problems) != 1 || !strings.Contains(r.Report.Problems[0].String(), "slow.yaml: it needs too much time to be searched for secrets, so it is not sent") || r.Report.Problems[0].Hint == "" {
		t.Errorf("%+v", r.Report.Problems)
	}
}
