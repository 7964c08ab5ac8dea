package root

import (
	"encoding/json"

	"aivm.dev/aivm/internal/ui"

	"aivm.dev/aivm/internal/root/record"
)

// The protocol on the helper's stdin, one JSON object per line:
//
//	client: {"kind":"bind","op":{...}}   start an action
//	client: {"cancel":true}              cancel the running action
//	helper: {"hello":1}                  sudo started the helper
//	helper: {"progress":{"line":"...","fraction":0.5}}
//	helper: {"result":{"note":"...","file":true}}  with the descriptor by SCM_RIGHTS
//	helper: {"error":{"kind":"refused","message":"...","hints":[...],"causes":["no-space"]}}
const (
	wireVersion = 1
	maxLine     = 1 << 20
)

type request struct {
	Kind   string          `json:"kind,omitempty"`
	Op     json.RawMessage `json:"op,omitempty"`
	Cancel bool            `json:"cancel,omitempty"`
}

type reply struct {
	Hello    int           `json:"hello,omitempty"`
	Progress *progressLine `json:"progress,omitempty"`
	Result   *resultLine   `json:"result,omitempty"`
	Error    *errorLine    `json:"error,omitempty"`
}

type progressLine struct {
	Line     string  `json:"line"`
	Fraction float64 `json:"fraction"`
}

type resultLine struct {
	Note string `json:"note,omitempty"`
	File bool   `json:"file,omitempty"`
}

type errorLine struct {
	Kind    string    `json:"kind"`
	Message string    `json:"message"`
	Hints   []ui.Hint `json:"hints,omitempty"`
	InUse   bool      `json:"in_use,omitempty"` // errors.Is ErrInUse
	Causes  []string  `json:"causes,omitempty"` // words of the causes it wraps
}

func encodeOp(op record.Op) ([]byte, error) {
	raw, err := json.Marshal(op)
	if err != nil {
		return nil, err
	}
	return json.Marshal(request{Kind: op.Kind(), Op: raw})
}
