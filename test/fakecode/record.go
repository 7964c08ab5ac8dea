package main

import (
	"encoding/json"
	"fmt"
	"os"
)

// record is one line of the log. Event "open" has Argv and CWD; "summary" has the result of an
// "open"; "version" and "list-extensions" have Argv.
type record struct {
	Event   string   `json:"event"`
	Argv    []string `json:"argv,omitempty"`
	CWD     string   `json:"cwd,omitempty"`
	Alias   string   `json:"alias,omitempty"`
	Path    string   `json:"path,omitempty"`
	Asked   bool     `json:"asked"`
	Prompts []string `json:"prompts,omitempty"`
	Forward bool     `json:"forward"`
	Folder  bool     `json:"folder"`
	Error   string   `json:"error,omitempty"`
	Seconds float64  `json:"seconds,omitempty"`
}

// logFile is the path of the log; empty means no log.
type logFile string

// add writes a line with one write call, so that several editors can share a log.
func (l logFile) add(r record) error {
	if l == "" {
		return nil
	}
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("logging: %w", err)
	}
	f, err := os.OpenFile(string(l), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("logging: %w", err)
	}
	if _, err := f.Write(append(line, '\n')); err != nil {
		f.Close()
		return fmt.Errorf("logging: %w", err)
	}
	return f.Close()
}
