package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"slices"

	"aivm.dev/aivm/internal/ui"
)

// decoders lists all actions that the helper accepts.
var decoders = map[string]func(json.RawMessage) (Op, error){
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

// Kinds returns the kinds of all actions, sorted.
func Kinds() []string { return slices.Sorted(maps.Keys(decoders)) }

func decodeAs[T Op](raw json.RawMessage) (Op, error) {
	var v T
	if err := StrictJSON(raw, &v); err != nil {
		return nil, err
	}
	return v, nil
}

// StrictJSON decodes exactly one value, and refuses fields that v does not have.
func StrictJSON(raw []byte, v any) error {
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

// Decode decodes the record of an action of this kind.
func Decode(kind string, raw json.RawMessage) (Op, error) {
	decode, ok := decoders[kind]
	if !ok {
		return nil, ui.Refused("the privileged helper has no action %q", kind)
	}
	op, err := decode(raw)
	if err != nil {
		return nil, ui.Refused("the record of action %q is malformed: %w", kind, err)
	}
	return op, nil
}
