package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// askVariable is the environment variable with the path of the file that records ssh's prompts. It
// is set only for ssh; a fakecode process that has it was started by ssh as its askpass program.
const askVariable = "FAKECODE_ASKED"

// askedBySSH reports whether ssh started this process as its askpass program, and returns the prompt.
func askedBySSH() (prompt string, yes bool) {
	if os.Getenv(askVariable) == "" {
		return "", false
	}
	return strings.Join(os.Args[1:], " "), true
}

// recordPrompt records the prompt and gives no answer, because there is no user. It returns the exit
// status.
func recordPrompt(prompt string) int {
	f, err := os.OpenFile(os.Getenv(askVariable), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		fmt.Fprintln(os.Stderr, "fakecode:", err)
		return 1
	}
	defer f.Close()
	if _, err := fmt.Fprintf(f, "%s\n", strings.ReplaceAll(prompt, "\n", " ")); err != nil {
		fmt.Fprintln(os.Stderr, "fakecode:", err)
	}
	return 1
}

// prompts returns the recorded prompts.
func prompts(path string) ([]string, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		all = append(all, lines.Text())
	}
	return all, nil
}
