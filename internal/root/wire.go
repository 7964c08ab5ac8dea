package root

import (
	"encoding/json"
	"errors"

	"aivm.dev/aivm/internal/root/mount"
	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/ui"
)

// The conversation on the helper's stdin, one JSON object per line.
//
//	client: {"kind":"bind","op":{...}}   start an action
//	client: {"cancel":true}              stop the running one
//	helper: {"hello":1}                  sudo let it through
//	helper: {"progress":{"line":"...","fraction":0.5}}
//	helper: {"result":{"note":"...","file":true}}  with the descriptor by SCM_RIGHTS
//	helper: {"error":{"kind":"refused","message":"...","hints":[...]}}
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
	Kind    string   `json:"kind"`
	Message string   `json:"message"`
	Hints   []string `json:"hints,omitempty"`
	InUse   bool     `json:"in_use,omitempty"` // it is ErrInUse
}

func encodeOp(op record.Op) ([]byte, error) {
	raw, err := json.Marshal(op)
	if err != nil {
		return nil, err
	}
	return json.Marshal(request{Kind: op.Kind(), Op: raw})
}

// wireError turns any error into its record; remoteError is the way back.
func wireError(err error) *errorLine {
	l := &errorLine{Kind: "failed", Message: err.Error(), InUse: errors.Is(err, mount.ErrInUse)}
	var e *ui.Error
	if errors.As(err, &e) {
		l.Kind, l.Hints = e.Kind, e.Hints
	}
	return l
}

func remoteError(l *errorLine) error {
	as := ui.Failed
	switch l.Kind {
	case "refused":
		as = ui.Refused
	case "approval":
		as = ui.NeedsApproval
	}
	err := as("%s", l.Message).Hint(l.Hints...)
	if l.InUse {
		err.Err = mount.ErrInUse
	}
	return err
}
