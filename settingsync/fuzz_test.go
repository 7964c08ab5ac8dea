package settingsync

import (
	"path"
	"strings"
	"testing"
	"time"
)

// FuzzGuestAnswer: whatever a guest reports about its home, only what is wanted is sent, and to no
// other path; if the guest reports an applied round, the next round is empty.
func FuzzGuestAnswer(f *testing.F) {
	zero := strings.Repeat("0a", 32)
	f.Add([]byte("aivm-sync 1\x00home /home/agent\x00full\x00state {\"schema\":1,\"files\":{\".bashrc\":{\"sum\":\""+zero+"\"}},\"settings\":{},\"ext\":{}}\x00S12 34 .bashrc\x00E"+
		"f 644 12 ./.bashrc\x00"+zero+"  ./.bashrc\x00text 0 {}\x00end\x00"), true)
	f.Add([]byte("aivm-sync 1\x00home /h\x00El 777 1 ./.bashrc\x00L/etc/passwd\x00Ed 755 1 ./.config\x00server 0 ./x\x00served 0\x00extensions 0 a.b-1.2.3\x00end\x00"), false)
	f.Add([]byte("aivm-sync 1\x00home \x00end\x00"), true)
	f.Add([]byte("aivm-sync 1\x00home /h\x00known\x00Ef 644 12 ./.bashrc\x00end\x00"), true)
	known := State("{\"id\":\"" + strings.Repeat("0b", 16) + "\",\n\"schema\":1,\"files\":{\".bashrc\":{\"sum\":\"" + zero + "\"}},\"settings\":{},\"ext\":{}}\x00S12 ./.bashrc\x00")
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	f.Fuzz(func(t *testing.T, answer []byte, overwrite bool) {
		data := []byte("alias ll='ls -l'\n")
		w := &Wanted{
			Options: Options{
				Home: "/home/me", Overwrite: overwrite, Extensions: []string{"golang.go"},
				Editors: []EditorPlace{{Name: "code", Server: ".vscode-server", Target: ".vscode-server/data/Machine/settings.json", InUse: true}},
			},
			Items:    []Item{{Host: "/home/me/.bashrc", Guest: ".bashrc", Mode: 0o644, Time: now, Data: data, Sum: sum(data)}, {Host: "/home/me/.config/x", Guest: ".config/x", Link: "y", Sum: "-> y"}},
			Dirs:     []Dir{{Guest: ".config", Mode: 0o755}},
			Settings: []Setting{{EditorPlace: EditorPlace{Name: "code", Target: ".vscode-server/data/Machine/settings.json"}, Filtered: Filtered{Text: "{\"a\":1}\n", Plain: `{"a":1}`}}},
			roots:    []string{".bashrc", ".config/x"}, Known: known,
		}
		g, err := w.ParseGuest(answer)
		if err != nil {
			return
		}
		if !path.IsAbs(g.Home) {
			t.Errorf("home %q", g.Home)
		}
		r := NewRound(w, g, now)
		b, err := r.Archive(nil)
		if err != nil {
			t.Fatal(err)
		}
		made := map[string]bool{}
		for _, st := range stepsOf(t, b) {
			where := ""
			switch op, f := st[0], st[1:]; op {
			case "file", "sym":
				where = path.Join(f[0], f[1])
				if made[where] {
					t.Errorf("%q is sent twice", where)
				}
				made[where] = true
			case "trim":
				where = path.Join(f[0], f[1])
			case "same":
				where = path.Clean(f[1])
			case "none", "link", "seen":
				where = path.Clean(f[0])
			case "keep":
				if where = path.Clean(f[0]); !strings.HasPrefix(f[1], f[0]+".aivm-2026") {
					t.Errorf("kept as %q", f[1])
				}
			case "dir":
				if d := path.Clean(f[0]); d != ".config" && d != ".vscode-server/data/Machine" {
					t.Errorf("the directory %q is created", d)
				}
				continue
			case "sync", "end":
				continue
			default:
				t.Errorf("step %q", op)
			}
			if where != ".bashrc" && where != ".config/x" && where != ".vscode-server/data/Machine/settings.json" {
				t.Errorf("%q: %q, which is not wanted", st[0], where)
			}
		}
		for _, p := range r.Targets() {
			if p != "~/.bashrc" && p != "~/.config/x" && p != "~/.vscode-server/data/Machine/settings.json" {
				t.Errorf("%q is written", p)
			}
		}
		for _, in := range r.Install {
			if len(in.IDs) != 1 || in.IDs[0] != "golang.go" {
				t.Errorf("%+v is installed", in)
			}
		}
	})
}

// FuzzExtensions: Recommended returns only valid ids, and a command cannot take an id for an
// option.
func FuzzExtensions(f *testing.F) {
	f.Add("golang.go")
	f.Add("-x.y")
	f.Add("a.b\n")
	f.Fuzz(func(t *testing.T, id string) {
		if ValidExtension(id) && (strings.HasPrefix(id, "-") || strings.ContainsAny(id, " \n\r\t/\\'\"$`;&|<>\x00") || !strings.Contains(id, ".")) {
			t.Errorf("%q passes for an id", id)
		}
	})
}
