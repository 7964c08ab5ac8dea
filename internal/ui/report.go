package ui

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Status is an error that says nothing: the exit status of a remote command
// that has already spoken for itself.
func Status(exit int) *Error { return &Error{Exit: exit, Kind: "failed"} }

// IsStatus reports whether err is a Status.
func IsStatus(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Message == "" && len(e.Hints) == 0
}

// OwnOverSSH gives a failure of aivm itself, of whatever kind, the one status
// OpenSSH has for its own, and leaves a Status as it is: who reads the status
// of a remote command has to know whose it is.
func OwnOverSSH(err error) error {
	if err == nil || IsStatus(err) {
		return err
	}
	o := outcome(err)
	// Without its causes: a cancelled context among them means 130.
	return &Error{Exit: ExitSSH, Kind: o.Kind, Message: o.Message, Hints: o.Hints}
}

// ExitCode maps an error to the exit status of the program: nil is 0, an
// *Error its own, an interruption 130, everything else 2.
func ExitCode(err error) int { return outcome(err).Exit }

// outcome reduces any error to what is reported about it. An operation that
// failed because its context was cancelled was interrupted, however the error
// was wrapped on the way up; a refusal or a usage mistake stays one.
func outcome(err error) Error {
	if err == nil {
		return Error{}
	}
	var e *Error
	known := errors.As(err, &e) && e != nil
	if errors.Is(err, context.Canceled) && (!known || e.Kind == "failed" || e.Kind == "interrupted") {
		msg := oneLine(err.Error())
		if !known {
			msg = "interrupted"
		}
		return Error{Exit: ExitInterrupted, Kind: "interrupted", Message: msg, Hints: hints(err)}
	}
	if !known {
		return Error{Exit: ExitRefused, Kind: "failed", Message: oneLine(err.Error()), Hints: hints(err)}
	}
	out := Error{Exit: e.Exit, Kind: e.Kind, Message: oneLine(err.Error()), Hints: hints(err)}
	if out.Exit == 0 {
		out.Exit = ExitRefused
	}
	if out.Kind == "" {
		out.Kind = "failed"
	}
	return out
}

// hints collects the hints of every *Error in the tree, outermost first, each
// once.
func hints(err error) []Hint {
	var out []Hint
	var walk func(error)
	walk = func(err error) {
		if err == nil {
			return
		}
		// Type switches and not errors.As: the walk itself unwraps.
		if e, ok := err.(*Error); ok {
			for _, h := range e.Hints {
				h = Hint{Text: oneLine(h.Text), Command: oneLine(h.Command)}
				if s := h.String(); s != "" && !slices.ContainsFunc(out, func(o Hint) bool { return o.String() == s }) {
					out = append(out, h)
				}
			}
		}
		switch u := err.(type) {
		case interface{ Unwrap() error }:
			walk(u.Unwrap())
		case interface{ Unwrap() []error }:
			for _, e := range u.Unwrap() {
				walk(e)
			}
		}
	}
	walk(err)
	return out
}

// PrintError reports err on stderr: one "error: ..." line, then its hints, or
// one JSON object (CONTRACTS). nil and Status print nothing.
func (s *Streams) PrintError(err error) {
	if err == nil {
		return
	}
	o := outcome(err)
	if o.Message == "" && len(o.Hints) == 0 {
		return
	}
	if s.JSON {
		type body struct {
			Exit    int      `json:"exit"`
			Kind    string   `json:"kind"`
			Message string   `json:"message"`
			Hints   []string `json:"hints"`
		}
		s.writeJSON(s.Err, false, struct {
			Schema int  `json:"schema"`
			Error  body `json:"error"`
		}{1, body{o.Exit, o.Kind, o.Message, append([]string{}, o.HintLines()...)}})
		return
	}
	var b strings.Builder
	b.WriteString(s.paint("31", "error:") + " " + o.Message + "\n")
	for _, h := range o.HintLines() {
		b.WriteString(s.paint("36", "hint:") + " " + h + "\n")
	}
	s.write(s.Err, b.String())
}

// PrintJSON writes v as one object and a newline on stdout: indented for a
// person at a terminal, on one line for a program. Every character a terminal
// could obey is escaped (encoding/json leaves DEL, C1 and format characters).
func (s *Streams) PrintJSON(v any) error {
	text, err := encode(v, s.OutTTY)
	if err != nil {
		return fmt.Errorf("encoding the answer: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.erase()
	defer s.draw()
	if _, err := sink(s.Out).Write(text); err != nil {
		return fmt.Errorf("writing the answer: %w", err)
	}
	return nil
}

// writeJSON is for values made in this package, which always encode.
func (s *Streams) writeJSON(w io.Writer, indent bool, v any) {
	if text, err := encode(v, indent); err == nil {
		s.write(w, string(text))
	}
}

func encode(v any, indent bool) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if indent {
		enc.SetIndent("", "  ")
	}
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	// In valid JSON anything outside ASCII, and DEL, stands inside a string.
	var out bytes.Buffer
	for b := buf.Bytes(); len(b) > 0; {
		r, size := utf8.DecodeRune(b)
		switch {
		case r == '\n' || unicode.IsPrint(r):
			out.Write(b[:size])
		case r < 0x10000:
			fmt.Fprintf(&out, `\u%04x`, r)
		default:
			hi, lo := 0xd800+(r-0x10000)>>10, 0xdc00+(r-0x10000)&0x3ff
			fmt.Fprintf(&out, `\u%04x\u%04x`, hi, lo)
		}
		b = b[size:]
	}
	return out.Bytes(), nil
}
