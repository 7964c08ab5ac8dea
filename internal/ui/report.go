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

// Status returns an error that has an exit status and no message. It passes on the exit
// status of a remote command, which has printed its own errors.
func Status(exit int) *Error { return &Error{Exit: exit, Kind: "failed"} }

// IsStatus reports whether err was made by Status.
func IsStatus(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Message == "" && len(e.Hints) == 0
}

// AsSSHError gives an error of aivm itself the exit status 255, which OpenSSH uses for
// its own errors, and returns a Status unchanged. So the caller of "aivm ssh" can tell
// whether the remote command or aivm failed.
func AsSSHError(err error) error {
	if err == nil || IsStatus(err) {
		return err
	}
	o := outcome(err)
	// Err is left out: with context.Canceled among the causes, outcome would make it 130.
	return &Error{Exit: ExitSSH, Kind: o.Kind, Message: o.Message, Hints: o.Hints}
}

// ExitCode returns the exit status for err: 0 for nil, the status of an *Error, 130 for
// an interruption, 2 for everything else.
func ExitCode(err error) int { return outcome(err).Exit }

// outcome reduces any error to what is reported about it: exit status, kind, message,
// hints. An operation that failed because its context was cancelled is reported as
// interrupted, however the error was wrapped; a refusal or usage error is not.
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

// hints collects the hints of all *Error values in the error tree, outermost first and
// without repetitions.
func hints(err error) []Hint {
	var out []Hint
	var walk func(error)
	walk = func(err error) {
		if err == nil {
			return
		}
		// Type assertions instead of errors.As: this function unwraps by itself.
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

// PrintError prints err on stderr: one "error: ..." line and a "hint: ..." line for each
// hint, or with --json one object {"schema":1,"error":{"exit","kind","message","hints"}}.
// It prints nothing for nil and for a Status.
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

// PrintJSON writes v as one JSON value and a newline on stdout: indented on a terminal,
// else on one line. All characters a terminal could interpret are escaped;
// encoding/json leaves DEL, C1 controls and format characters unescaped.
func (s *Streams) PrintJSON(v any) error {
	text, err := encode(v, s.OutTTY)
	if err != nil {
		return fmt.Errorf("encoding the result as JSON: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.erase()
	defer s.draw()
	if _, err := sink(s.Out).Write(text); err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	return nil
}

// writeJSON writes v as JSON to w. It is only used for values that always encode.
func (s *Streams) writeJSON(w io.Writer, indent bool, v any) {
	if text, err := encode(v, indent); err == nil {
		s.write(w, string(text))
	}
}

// encode returns v as JSON with a newline; non-printable characters are \u escapes.
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
	// In valid JSON, DEL and characters outside ASCII occur only inside strings, so
	// they can be replaced by \u escapes.
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
