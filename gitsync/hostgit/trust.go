package hostgit

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/gitsync/writable"
	"aivm.dev/aivm/internal/ui"
)

// SignaturesTrusted refuses a merge that checks signatures as a file of the work
// tree says, which a commit can change.
func (r Repo) SignaturesTrusted(ctx context.Context) error {
	s, err := r.settings(ctx)
	if err != nil {
		return err
	}
	checks := false
	for _, v := range s.all {
		if v.key == "merge.verifysignatures" {
			checks = !slices.Contains([]string{"false", "no", "off", "0", ""}, strings.ToLower(v.value))
		}
	}
	if !checks {
		return nil
	}
	for _, v := range s.all {
		t, _ := writable.Trail(v.file)
		if section, _ := sectionOf(v.key); section == "gpg" && len(r.below(t)) > 0 {
			return ui.Refused("signatures would be checked as %s says, a file of the work tree, which a commit can change (%s)", ui.Clean(v.file), ui.Clean(v.key)).
				Hint(unsetHint(v))
		}
	}
	return nil
}

// startable are settings whose programs no option of ours keeps from running
// where they are needed: to check a signature that the person asks for, or to
// get the objects of a partial clone.
func startable(key string) bool {
	section, name := sectionOf(key)
	switch section {
	case "gpg", "credential", "ssh":
		return true
	case "core":
		return name == "sshcommand" || name == "gitproxy" || name == "askpass"
	case "remote":
		return name == "uploadpack" || name == "receivepack" || name == "vcs"
	}
	return false
}

// trusted refuses a configuration that a guest can write, or that sends git's
// own connection elsewhere.
func (r Repo) trusted(s *settings) error {
	for _, f := range s.reads {
		if f.idle {
			continue
		}
		for _, p := range f.trail {
			if w, vm, yes := r.guests.Holding(p); yes {
				return r.refuse(f.path, p, w, vm)
			}
		}
		if w, vm, yes := r.guests.Sharing(f.path); yes {
			q := shellescape.Quote(f.path)
			return ui.Refused("git on this machine is not started for %s: it reads %s, a file with another name, which may lie in %s, where VM %s can write", ui.Clean(r.Top), ui.Clean(f.path), ui.Clean(w), vm).
				Hint(ui.CmdFor("give it a single name", "cp -p "+q+" "+shellescape.Quote(f.path+".new")+" && mv "+shellescape.Quote(f.path+".new")+" "+q), detachHint(w, vm))
		}
	}
	inTree := map[string]bool{}
	for _, f := range s.reads {
		if len(r.below(f.trail)) > 0 {
			inTree[f.path] = true
		}
	}
	partial := slices.ContainsFunc(s.all, func(v setting) bool {
		_, name := sectionOf(v.key)
		return name == "partialclone" || name == "promisor" && v.value != "false"
	})
	for _, v := range s.all {
		if startable(v.key) {
			for _, w := range words(v.value, r.Top) {
				t, _ := writable.Trail(w.file)
				for _, p := range t {
					if dir, vm, yes := r.guests.Holding(p); yes {
						return ui.Refused("git on this machine is not started for %s: its setting %s runs %s, and VM %s can write %s", ui.Clean(r.Top), ui.Clean(v.key), ui.Clean(w.file), vm, ui.Clean(dir)).
							Hint(detachHint(dir, vm), unsetHint(v))
					}
				}
			}
		}
		if section, _ := sectionOf(v.key); inTree[v.file] && partial && (startable(v.key) || slices.Contains([]string{"remote", "url", "http", "protocol", "extensions"}, section)) {
			return ui.Refused("git on this machine is not started for %s: objects of this partial clone are fetched as %s says, a file of the work tree, which a commit can change (%s)", ui.Clean(r.Top), ui.Clean(v.file), ui.Clean(v.key)).
				Hint(unsetHint(v))
		}
	}
	return nil
}

// Straight refuses a configuration that rewrites the address by which git is
// told of a connection that is open.
func (r Repo) Straight(ctx context.Context) error {
	s, err := r.settings(ctx)
	if err != nil {
		return err
	}
	for _, v := range s.all {
		section, name := sectionOf(v.key)
		if section == "url" && (name == "insteadof" || name == "pushinsteadof") && strings.HasPrefix(OpenConnection, v.value) {
			return ui.Refused("git on this machine is not started for %s: its setting %s rewrites the address of the VM's clone", ui.Clean(r.Top), ui.Clean(v.key)).Hint(unsetHint(v))
		}
	}
	return nil
}

// OpenConnection is the address of the clone for git's "fd" transport.
const OpenConnection = "fd::3,4/guest"

func (r Repo) refuse(file, at, folder, vm string) error {
	e := ui.Refused("git on this machine is not started for %s: it reads %s, and VM %s can write %s, so that VM could have any program run here", ui.Clean(r.Top), ui.Clean(file), vm, ui.Clean(folder)).
		Hint(detachHint(folder, vm), ui.CmdFor("and, if that VM needs it, share it to be read only", "aivm attach "+shellescape.Quote(folder)+" --vm "+vm+" --access ro"))
	if st, err := os.Lstat(file); err == nil && st.Mode()&os.ModeSymlink != 0 && !writable.Within(filepath.Clean(file), folder) {
		e = e.Hint(ui.CmdFor("or, once you have read it, make it a file of its own", "cp --remove-destination \"$(readlink -f "+shellescape.Quote(file)+")\" "+shellescape.Quote(file)))
	}
	return e
}

func detachHint(folder, vm string) ui.Hint {
	return ui.CmdFor("take the share away", "aivm detach "+shellescape.Quote(folder)+" --vm "+vm)
}

func unsetHint(v setting) ui.Hint {
	return ui.CmdFor("or take the setting away", "git config --file "+shellescape.Quote(v.file)+" --unset-all "+shellescape.Quote(v.key))
}

// trustedProgram refuses a git that a guest can write, or whose place in PATH
// comes after one where a guest could put another.
func (r Repo) trustedProgram() error {
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if !filepath.IsAbs(dir) {
			continue // Go starts nothing from there
		}
		path := dir + "/git"
		t, _ := writable.Trail(path)
		for _, p := range t {
			if w, vm, yes := r.guests.Holding(p); yes {
				return ui.Refused("git on this machine is not started: PATH leads to %s, and VM %s can write %s", ui.Clean(path), vm, ui.Clean(w)).
					Hint(detachHint(w, vm), ui.CmdFor("or take the folder out of PATH", "echo $PATH"))
			}
		}
		if _, err := exec.LookPath(path); err == nil {
			return nil
		}
	}
	return nil
}

// below are the places of a trail that lie in the work tree, where a commit can
// change them, relative to it.
func (r Repo) below(places []string) []string {
	var out []string
	for _, p := range places {
		if p == r.Top || !writable.Within(p, r.Top) || writable.Within(p, r.GitDir) || writable.Within(p, r.CommonDir) || writable.Within(p, filepath.Join(r.Top, ".git")) {
			continue
		}
		out = append(out, strings.TrimPrefix(p, strings.TrimSuffix(r.Top, "/")+"/"))
	}
	return out
}
