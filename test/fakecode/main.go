// Command fakecode replaces Visual Studio Code in tests, which cannot be installed on a machine
// without a desktop. With --remote it makes the same connections as Remote-SSH, with the machine's
// own OpenSSH, and fails when Remote-SSH would.
//
// It keeps no state. It writes to the log file given to it, to a folder in the guest and below
// ~/.vscode-server there; on the host it changes nothing else.
//
//	fakecode --version
//	fakecode --list-extensions
//	fakecode --remote ssh-remote+ALIAS PATH
//
// The real code returns at once; fakecode stays in the foreground, so that its exit status is the
// result. Environment variables control it:
//
//	FAKECODE_LOG         file to which JSON lines are appended (see record)
//	FAKECODE_QUICK=1     with --remote: log the arguments and exit 0
//	FAKECODE_EXTENSIONS  what --list-extensions prints, comma separated
//	FAKECODE_WRITE       name of a file to write in the opened folder
//	FAKECODE_TEXT        its content ("written by fakecode" by default)
//	FAKECODE_TIMEOUT     limit for the complete connection (a Go duration, 2m)
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"time"
)

const (
	version      = "1.99.0"
	commit       = "0123456789abcdef0123456789abcdef01234567"
	remoteSSH    = "ms-vscode-remote.remote-ssh"
	defaultLimit = 2 * time.Minute
)

func main() {
	if prompt, ok := askedBySSH(); ok {
		os.Exit(recordPrompt(prompt))
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "fakecode:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	log := logFile(os.Getenv("FAKECODE_LOG"))
	switch {
	case slices.Contains(args, "--version"):
		fmt.Printf("%s\n%s\nx64\n", version, commit)
		return log.add(record{Event: "version", Argv: os.Args})
	case slices.Contains(args, "--list-extensions"):
		extensions, set := os.LookupEnv("FAKECODE_EXTENSIONS")
		if !set {
			extensions = remoteSSH
		}
		for _, e := range strings.Split(extensions, ",") {
			if e != "" {
				fmt.Println(e)
			}
		}
		return log.add(record{Event: "list-extensions", Argv: os.Args})
	}

	r := record{Event: "open", Argv: os.Args}
	var err error
	if r.CWD, err = os.Getwd(); err != nil {
		return err
	}
	if err := log.add(r); err != nil {
		return err
	}
	alias, folder, err := remoteFolder(args)
	if err == nil && os.Getenv("FAKECODE_QUICK") == "1" {
		return nil
	}
	began := time.Now()
	sum := record{Event: "summary", Alias: alias, Path: folder}
	if err == nil {
		err = open(&sum, alias, folder)
	}
	sum.Seconds = time.Since(began).Seconds()
	if err != nil {
		sum.Error = err.Error()
	}
	return errors.Join(err, log.add(sum))
}

// remoteFolder parses the arguments as code does, including its guess: with --remote, a last
// component that contains a dot is treated as a file unless a slash follows.
func remoteFolder(args []string) (alias, folder string, err error) {
	if len(args) != 3 || args[0] != "--remote" {
		return "", "", fmt.Errorf("want --remote ssh-remote+ALIAS PATH, got %q", args)
	}
	alias, ok := strings.CutPrefix(args[1], "ssh-remote+")
	folder = args[2]
	switch {
	case !ok || alias == "":
		return "", "", fmt.Errorf("%q is not an SSH authority", args[1])
	case alias != strings.ToLower(alias):
		return alias, folder, fmt.Errorf("the alias %q would be lower-cased and not found", alias)
	case !path.IsAbs(folder):
		return alias, folder, fmt.Errorf("%q is not an absolute path", folder)
	case !strings.HasSuffix(folder, "/") && strings.Contains(path.Base(folder), "."):
		return alias, folder, fmt.Errorf("%q is treated as a file, because its name has a dot and no slash follows", folder)
	}
	return alias, folder, nil
}

// open connects to the guest, opens the folder and writes a file in it. It sets the fields of sum for
// the steps that succeeded.
func open(sum *record, alias, folder string) (err error) {
	limit, err := time.ParseDuration(cmp.Or(os.Getenv("FAKECODE_TIMEOUT"), defaultLimit.String()))
	if err != nil {
		return fmt.Errorf("FAKECODE_TIMEOUT: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), limit, fmt.Errorf("not finished after %v", limit))
	defer cancel()

	c, err := connect(ctx, alias)
	if err != nil {
		return err
	}
	defer func() {
		prompts, closeErr := c.end()
		sum.Asked, sum.Prompts = len(prompts) > 0, prompts
		err = errors.Join(err, closeErr)
		if sum.Asked {
			err = errors.Join(err, fmt.Errorf("ssh prompted: %q", prompts))
		}
	}()

	port, err := c.install()
	if err != nil {
		return err
	}
	if err := c.exchange(ctx, port); err != nil {
		return fmt.Errorf("forwarding to the guest's port %d: %w", port, err)
	}
	sum.Forward = true
	if err := c.openFolder(folder, os.Getenv("FAKECODE_WRITE"), cmp.Or(os.Getenv("FAKECODE_TEXT"), "written by fakecode")); err != nil {
		return err
	}
	sum.Folder = true
	return nil
}
