package script

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// shapes are the JSON objects of aivm's documented interface. Every key must exist, with a value of the
// same type, except those that end in "?". A string "a|b" allows these words only; the element of an
// array stands for all elements. Other keys must not occur: a new field is added here too.
var shapes = map[string]string{
	"error": `{"schema":1,"error":{"exit":2,"kind":"usage|refused|failed|approval|interrupted","message":"…","hints":["aivm …"]}}`,
	"status": `{"schema":1,"config":"PATH","vm":"NAME","checks":[{"id":"firewall","label":"Firewall","state":"ok|bad|unknown|skipped","detail":"…","fix":["aivm …"]}],
		"done":7,"total":9,"wall":{"sentence":"…","writable":["/p"]},"templates":[{"name":"…","key":"…","state":"ready|stale|building","why":"…","size":0,"agents":{},"accel?":"kvm|tcg","image?":"…","memory_mb?":0,"cpus?":0,"created?":"…","versions":{}}],
		"runs":[{"schema":1,"id":"…","name":"…","state":"running|frozen|ended","folder":"/p","template":"…","argv":["…"],"started":"…","exit":null,"net":"none|open","pid":1}],"details?":[{"id":"domain","title":"…","lines":["…"]}],"next?":["aivm …"],"special?":[{"folder":"/p","path":"dev/sda","what":"setuid","owner":1000}],
		"unmapped?":[{"folder":"/p","kind":"user|group","id":0,"name?":"root","files":1,"paths":["f"]}],
		"repositories?":[{"folder":"/p","kind":"worktree|submodule|gitdir|parent|objects","path":"/main/.git","file":".git","attach?":"aivm …"}]}`,
	"attach": `{"schema":1,"vm":"a","folder":"/p","guest_dst":"/p","mode":"git|shared|shared-root","access":"rw|ro","mounted":false,"changed":true,"protect?":true,"executed?":["Makefile"],
		"unmapped?":[{"folder":"/p","kind":"user|group","id":0,"name?":"root","files":1,"paths":["f"]}],
		"repositories?":[{"folder":"/p","kind":"worktree|submodule|gitdir|parent|objects","path":"/main/.git","file":".git","attach?":"aivm …"}]}`,
	"doctor": `{"schema":1,"config":"PATH","vm":"","checks":[{"id":"firewall","label":"Firewall","state":"ok|bad|unknown|skipped","detail":"…","fix":["aivm …"],"evidence?":["…"]}],
		"done":7,"total":9,"wall":{"sentence":"…","writable":["/p"]},"templates":[{"name":"…","key":"…","state":"ready|stale|building","why":"…","size":0,"agents":{},"accel?":"kvm|tcg","image?":"…","memory_mb?":0,"cpus?":0,"created?":"…","versions":{}}],
		"runs":[{"schema":1,"id":"…","name":"…","state":"running|frozen|ended","folder":"/p","template":"…","argv":["…"],"started":"…","exit":null,"net":"none|open","pid":1}],"mends":["…"],"fixed":["…"]}`,
	"list": `{"schema":1,"store":"PATH","active_vm":"a",
		"vms":[{"name":"a","state":"running|off|paused|missing|unknown","alias":"a","address":"10.77.0.50","network":"aivm-net","cpus":4,"ram_mb":8192,"disk_gb":40,"image":"…","configured?":{"cpus?":4,"ram_mb?":8192,"disk_gb?":40,"apply?":"aivm …"},"alias_fault?":"…","not_adopted?":true}],
		"networks":[{"name":"aivm-net","bridge":"…","subnet":"…","firewall":true,"rules?":"in place|missing|altered|older|unknown|off","vms":1}],
		"folders":[{"host_path":"/p","vm":"a","mode":"git|shared|shared-root","access":"rw|ro","guest_dst":"/home/agent/p","state":"ok|detached|detaching|missing|unknown"}],
		"templates":[{"name":"…","key":"…","state":"ready|stale|building","why":"…","size":0,"agents":{},"accel?":"kvm|tcg","image?":"…","memory_mb?":0,"cpus?":0,"created?":"…","versions":{}}],
		"runs":[{"schema":1,"id":"…","name":"…","state":"running|frozen|ended","folder":"/p","template":"…","argv":["…"],"started":"…","exit":null,"net":"none|open","pid":1}]}`,
	"dry-run": `{"schema":1,"verb":"code","vm?":"a","folder?":"/p","guest_dst?":"/p","asks":true,
		"stages":[{"stage":"host|guest","actions":[{"id":"domain.define","why":"…","shows":["…"],"diff?":"…","root":false,"consent":"none|ask|typed"}]}],"then?":"code …",
		"clones?":[{"folder":"/p","guest_dst":"/home/agent/p","remote?":"aivm-a","known":true,"why?":"…","fetched":[{"branch":"b","old?":"…","new":"…","forced?":true}],
			"only_in_vm":{"branches":["b"],"commits":["…"],"refs":["tags/v1"],"files":[{"code":"??","path":"…"}],"stashes":["…"],
				"inside":[{"path":"…","kind":"worktree|submodule|repository","files":1,"commits":1,"stashes":0}],"lfs":1,"ignored":1,"unreachable":0,"incomplete":["…"]}}]}`,
	"warning": `{"schema":1,"warning":{"message":"…"}}`,
}

// cmdShape checks that a file has one JSON object of one of shapes, in one line: shape FILE KIND.
func cmdShape(ts *testscript.TestScript, _ bool, args []string) {
	var want, got any
	if err := json.Unmarshal([]byte(shapes[args[1]]), &want); err != nil {
		ts.Fatalf("the shape %q: %v", args[1], err)
	}
	text := ts.ReadFile(args[0])
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		ts.Fatalf("not one JSON object: %v", err)
	}
	if strings.Count(text, "\n") != 1 || !strings.HasSuffix(text, "\n") {
		ts.Fatalf("the JSON object is not exactly one line")
	}
	if bad := compareShape("", want, got); len(bad) > 0 {
		ts.Fatalf("%s does not have the shape %q:\n%s", args[0], args[1], strings.Join(bad, "\n"))
	}
}

// compareShape returns the differences between a value and a shape. at is the path of the value.
func compareShape(at string, want, got any) []string {
	bad := func(format string, args ...any) []string { return []string{at + ": " + fmt.Sprintf(format, args...)} }
	var out []string
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			return bad("%v is not an object", got)
		}
		known := map[string]bool{}
		for k, v := range w {
			name, optional := strings.CutSuffix(k, "?")
			known[name] = true
			if have, ok := g[name]; ok {
				out = append(out, compareShape(at+"."+name, v, have)...)
			} else if !optional {
				out = append(out, bad("%s is missing", name)...)
			}
		}
		for k := range g {
			if !known[k] {
				out = append(out, bad("%s is not in the shape", k)...)
			}
		}
	case []any:
		g, ok := got.([]any)
		if !ok {
			return bad("%v is not an array", got)
		}
		for i, v := range g {
			out = append(out, compareShape(fmt.Sprintf("%s.%d", at, i), w[0], v)...)
		}
	case string:
		g, ok := got.(string)
		if !ok {
			return bad("%v is not a string", got)
		}
		if words := strings.Split(w, "|"); len(words) > 1 && !slices.Contains(words, g) {
			return bad("%q is none of %v", g, words)
		}
	case float64:
		if _, ok := got.(float64); !ok {
			return bad("%v is not a number", got)
		}
	case bool:
		if _, ok := got.(bool); !ok {
			return bad("%v is not true or false", got)
		}
	}
	if at == ".schema" && got != want {
		return bad("%v", got)
	}
	return out
}
