package secretscan

import (
	"strings"
	"testing"
)

// FuzzSecrets: the search ends in time, returns lines that exist in order and each kind of a line once,
// and finds a token on a line of its own whatever is around it.
func FuzzSecrets(f *testing.F) {
	f.Add([]byte("token = " + token + "\n"))
	f.Add([]byte("-----BEGIN RSA PRIVATE KEY-----\nx\n"))
	f.Add([]byte("export AWS_SECRET_ACCESS_KEY='" + strings.Repeat("aB3/", 10) + "'\nhttps://u:p@h/\n"))
	f.Add([]byte(strings.Repeat("a=", 5000)))
	f.Add([]byte("\xff\xfea\x00b\x00\n\x00x"))
	f.Add([]byte("password: \"\\\"x' := `key => <token>"))
	f.Add([]byte("var api_key string = r\"\nmachine a login b password c\n*:*:a:b:cccc"))
	f.Fuzz(func(t *testing.T, data []byte) {
		found, err := Scan("f", data)
		if err != nil {
			t.Fatal(err)
		}
		text, isBinary := decode(data)
		seen := map[Secret]bool{}
		last := 0
		for _, s := range found {
			if s.Kind == "" || seen[s] || s.Line < last || !isBinary && (s.Line < 1 || s.Line > strings.Count(text, "\n")+1) {
				t.Errorf("%+v of %+v", s, found)
			}
			seen[s], last = true, s.Line
		}
		if isBinary || strings.ContainsAny(text, "\x00") {
			return
		}
		found, err = Scan("f", []byte(text+"\n"+token+"\n"))
		if err != nil || len(found) == 0 || found[len(found)-1] != (Secret{strings.Count(text, "\n") + 2, "a GitHub token"}) {
			t.Errorf("the token behind %q is not found: %v, %v", text, found, err)
		}
	})
}
