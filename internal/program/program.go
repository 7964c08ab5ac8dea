// Package program contains the programs that aivm runs in one-shot VMs: the agent for
// each architecture, as scripts/programs.sh builds it.
package program

import (
	"bytes"
	"compress/gzip"
	"embed"
	"fmt"
	"io"
	"strings"
)

//go:embed *.gz *.sha256
var files embed.FS

// Agent returns the agent for an architecture in Go's words: amd64 or arm64.
func Agent(arch string) ([]byte, error) {
	compressed, err := files.ReadFile("agent-" + arch + ".gz")
	if err != nil {
		return nil, fmt.Errorf("aivm has no agent for one-shot VMs on %s", arch)
	}
	r, err := gzip.NewReader(bytes.NewReader(compressed))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// Digest returns the SHA-256 of Agent's program, in hexadecimal, without unpacking it.
func Digest(arch string) (string, error) {
	digest, err := files.ReadFile("agent-" + arch + ".sha256")
	if err != nil {
		return "", fmt.Errorf("aivm has no agent for one-shot VMs on %s", arch)
	}
	return strings.TrimSpace(string(digest)), nil
}
