package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// askVariable names the file in which a question of ssh is noted. It is set
// for ssh alone; a fakecode that has it is ssh's askpass program.
const askVariable = "FAKECODE_ASKED"

// askedBySSH reports whether this process was started by ssh to ask a person.
func askedBySSH() (prompt string, yes bool) {
	if os.Getenv(askVariable) == "" {
		return "", false
	}
	return strings.Join(os.Args[1:], " "), true
}

// answerNothing notes the question and gives no answer: a person would have
// had to.
func answerNothing(prompt string) int {
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

// prompts reads what was noted.
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
