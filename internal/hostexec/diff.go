package hostexec

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"aivm.dev/aivm/internal/ui"
)

// A Change is one difference between two scans of a folder.
type Change struct {
	Path string
	Kind Kind
	What string // "new", "changed", "gone", "mode" (only permissions changed), "link" (replaced by a link)
}

// Diff returns the differences between two scans, sorted by path.
func Diff(then, now List) []Change {
	var out []Change
	i, j := 0, 0
	for i < len(then.Files) || j < len(now.Files) {
		switch {
		case j == len(now.Files) || i < len(then.Files) && then.Files[i].Path < now.Files[j].Path:
			out = append(out, Change{then.Files[i].Path, then.Files[i].Kind, "gone"})
			i++
		case i == len(then.Files) || now.Files[j].Path < then.Files[i].Path:
			out = append(out, Change{now.Files[j].Path, now.Files[j].Kind, "new"})
			j++
		default:
			if what := differs(then.Files[i], now.Files[j]); what != "" {
				out = append(out, Change{now.Files[j].Path, now.Files[j].Kind, what})
			}
			i++
			j++
		}
	}
	return out
}

func differs(a, b File) string {
	switch {
	case a.Type != b.Type && b.Type == "link":
		return "link"
	case a.Type != b.Type, a.Sum != "" && b.Sum != "" && a.Sum != b.Sum:
		return "changed"
	case (a.Sum == "" || b.Sum == "") && (a.Size != b.Size || a.MTime != b.MTime || a.Ino != b.Ino):
		return "changed"
	case a.Mode != b.Mode:
		return "mode"
	}
	return ""
}

// Names returns a text for messages with at most n of the files, silent ones first, and the number
// of further ones.
func (l List) Names(n int) string {
	var names []string
	for _, kind := range []Kind{Silent, Asked} {
		for _, f := range l.Files {
			if f.Kind == kind {
				names = append(names, f.Path)
			}
		}
	}
	return ui.Some(names, n)
}

// saved is the JSON form of a File. A path may contain any bytes, a JSON string may not.
type saved struct {
	Path  string `json:"path"`
	Kind  Kind   `json:"kind"`
	Type  string `json:"type"`
	Mode  uint32 `json:"mode"`
	Size  int64  `json:"size"`
	MTime int64  `json:"mtime"`
	Ino   uint64 `json:"ino"`
	Links uint64 `json:"links"`
	Sum   string `json:"sum,omitempty"`
}

// MarshalJSON encodes f; a path that is not valid UTF-8, or starts with a quote, is quoted as in Go.
func (f File) MarshalJSON() ([]byte, error) {
	s := saved(f)
	if !utf8.ValidString(s.Path) || strings.HasPrefix(s.Path, `"`) {
		s.Path = strconv.QuoteToASCII(s.Path)
	}
	return json.Marshal(s)
}

// UnmarshalJSON decodes the output of MarshalJSON.
func (f *File) UnmarshalJSON(b []byte) error {
	var s saved
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	if strings.HasPrefix(s.Path, `"`) {
		p, err := strconv.Unquote(s.Path)
		if err != nil {
			return fmt.Errorf("path %s: %w", s.Path, err)
		}
		s.Path = p
	}
	*f = File(s)
	return nil
}
