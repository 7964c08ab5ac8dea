package root

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"aivm.dev/aivm/internal/lazyre"
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

// ErrInUse is a mount that somebody still holds: what Do says about it wraps
// this, also when it comes from the helper, and names who.
var ErrInUse = errors.New("is in use")

// kinds is the whole of what the helper can be asked for.
var kinds = map[string]func(json.RawMessage) (Op, error){
	Export{}.Kind():        decodeAs[Export],
	Bind{}.Kind():          decodeAs[Bind],
	Unbind{}.Kind():        decodeAs[Unbind],
	Unexport{}.Kind():      decodeAs[Unexport],
	OldShares{}.Kind():     decodeAs[OldShares],
	Packages{}.Kind():      decodeAs[Packages],
	Service{}.Kind():       decodeAs[Service],
	KVMDevice{}.Kind():     decodeAs[KVMDevice],
	KVMModule{}.Kind():     decodeAs[KVMModule],
	Ruleset{}.Kind():       decodeAs[Ruleset],
	LibvirtSocket{}.Kind(): decodeAs[LibvirtSocket],
	BuildImage{}.Kind():    decodeAs[BuildImage],
	Hooks{}.Kind():         decodeAs[Hooks],
	Nft{}.Kind():           decodeAs[Nft],
}

func decodeAs[T Op](raw json.RawMessage) (Op, error) {
	var v T
	if err := strictJSON(raw, &v); err != nil {
		return nil, err
	}
	return v, nil
}

func strictJSON(raw []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if d.More() {
		return errors.New("more than one value")
	}
	return nil
}

func encodeOp(op Op) ([]byte, error) {
	raw, err := json.Marshal(op)
	if err != nil {
		return nil, err
	}
	return json.Marshal(request{Kind: op.Kind(), Op: raw})
}

func decodeOp(r request) (Op, error) {
	decode, ok := kinds[r.Kind]
	if !ok {
		return nil, ui.Refused("the privileged helper knows no action %q", r.Kind)
	}
	op, err := decode(r.Op)
	if err != nil {
		return nil, ui.Refused("the record of action %q is malformed: %w", r.Kind, err)
	}
	return op, nil
}

var (
	vmKeyRE = lazyre.New(`^[0-9]+-[a-z0-9-]{1,63}$`)
	tokenRE = lazyre.New(`^[a-z0-9][a-z0-9._-]*$`)
	// apt takes a "-" at a name's end for "remove it" and a "+" for "install
	// it", unless a package is called so: g++ and its kind end in two.
	packageRE = lazyre.New(`^[a-z0-9][a-z0-9+.-]*([a-z0-9]|\+\+)$`)
	distroRE  = lazyre.New(`^[a-z0-9][a-z0-9.-]{0,31}$`)
)

// ValidToken reports whether s can name a token directory.
func ValidToken(s string) bool { return len(s) <= 64 && tokenRE.MatchString(s) }

// maxID leaves out 2^32-1, which the kernel keeps for "no id".
const maxID = 1<<32 - 2

// validate checks every field of op again, where the rights are. caller is the
// uid that asked through sudo, or -1 when root itself asked: a user's helper
// touches no export but that user's.
func validate(op Op, caller int) error {
	bad := func(field string, v any) error {
		return ui.Refused("action %q has an unusable %s %q", op.Kind(), field, fmt.Sprint(v))
	}
	key := func(k string) error {
		if !vmKeyRE.MatchString(k) {
			return bad("vm key", k)
		}
		uid, _, _ := strings.Cut(k, "-")
		if n, err := strconv.Atoi(uid); err != nil || strconv.Itoa(n) != uid || n > maxID {
			return bad("vm key", k)
		} else if caller >= 0 && n != caller {
			return ui.Refused("vm key %q belongs to uid %d, not to %d who asks", k, n, caller)
		}
		return nil
	}
	switch o := op.(type) {
	case Export:
		return key(o.VMKey)
	case Unexport:
		return key(o.VMKey)
	case OldShares:
		switch {
		case !filepath.IsAbs(o.BaseDir), filepath.Clean(o.BaseDir) != o.BaseDir, o.BaseDir == "/", strings.ContainsAny(o.BaseDir, "\x00\n\r"):
			return bad("directory", o.BaseDir)
		case !filepath.IsLocal(o.VM), filepath.Base(o.VM) != o.VM, o.VM == ".", strings.ContainsAny(o.VM, "\x00\n\r"):
			return bad("VM", o.VM)
		}
		return nil
	case Unbind:
		if !ValidToken(o.Token) {
			return bad("token", o.Token)
		}
		return key(o.VMKey)
	case Bind:
		switch {
		case !ValidToken(o.Token):
			return bad("token", o.Token)
		case !filepath.IsAbs(o.Src), filepath.Clean(o.Src) != o.Src, o.Src == "/", strings.ContainsAny(o.Src, "\x00\n\r"):
			return bad("folder", o.Src)
		case o.Src == ExportBase, strings.HasPrefix(o.Src, ExportBase+"/"):
			return ui.Refused("%s is where shared folders appear and cannot be shared itself", o.Src)
		case o.UID < 0 || o.UID > maxID:
			return bad("uid", o.UID)
		case o.GID < 0 || o.GID > maxID:
			return bad("gid", o.GID)
		case o.Ino == 0:
			return bad("inode", o.Ino)
		case len(o.Protect) > MaxProtected:
			return bad("number of protected paths", len(o.Protect))
		}
		for _, p := range o.Protect {
			if !filepath.IsLocal(p) || filepath.Clean(p) != p || p == "." || strings.ContainsRune(p, 0) {
				return bad("protected path", p)
			}
		}
		return key(o.VMKey)
	case Packages:
		if _, other := otherManagers[o.Manager]; !other && o.Manager != "apt" {
			return bad("package manager", o.Manager)
		}
		if len(o.Names) == 0 || len(o.Names) > 200 {
			return bad("number of packages", len(o.Names))
		}
		for _, n := range o.Names {
			if !packageRE.MatchString(n) {
				return bad("package name", n)
			}
		}
		return nil
	case Service:
		if _, ok := daemons[o.Name]; !ok {
			return bad("service name", o.Name)
		}
		return nil
	case KVMDevice, Ruleset:
		return nil
	case KVMModule:
		if !slices.Contains(kvmModules, o.Name) {
			return bad("module", o.Name)
		}
		return nil
	case LibvirtSocket:
		if !slices.Contains(libvirtSockets, o.Path) {
			return bad("socket path", o.Path)
		}
		return nil
	case BuildImage:
		if !distroRE.MatchString(o.Distro) {
			return bad("distribution", o.Distro)
		}
		return nil
	case Hooks:
		return nil
	case Nft:
		if err := o.Wall.Check(); err != nil {
			return ui.Refused("action %q has an unusable %w", op.Kind(), err)
		}
		return nil
	}
	return ui.Refused("the privileged helper knows no action %q", op.Kind())
}

// wireError turns any error into its record; remoteError is the way back.
func wireError(err error) *errorLine {
	l := &errorLine{Kind: "failed", Message: err.Error(), InUse: errors.Is(err, ErrInUse)}
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
		err.Err = ErrInUse
	}
	return err
}
