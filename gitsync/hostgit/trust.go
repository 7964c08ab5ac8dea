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

// SignaturesTrusted refuses a merge whose signature checks are configured in a file of the work
// tree, which a commit can change.
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
		if section, _ := sectionOf(v.key); section == "gpg" && len(r.inWorkTree(t)) > 0 {
			return ui.Refused("signature checks are configured in %s, a file of the work tree that a commit can change (%s)", ui.Clean(v.file), ui.Clean(v.key)).
				Hint(unsetHint(v))
		}
	}
	return nil
}

// runsProgram reports whether a setting names a program that aivm cannot switch off because git
// needs it: to check a signature the user asked to check, or to fetch the objects of a partial
// clone.
func runsProgram(key string) bool {
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

// trusted refuses a configuration that a guest can write, or one that a commit can change and that
// redirects the fetches of a partial clone.
func (r Repo) trusted(s *settings) error {
	for _, f := range s.reads {
		if f.inactive {
			continue
		}
		for _, p := range f.trail {
			if w, vm, yes := r.guests.FolderAround(p); yes {
				return r.refuse(f.path, p, w, vm)
			}
		}
		if w, vm, yes := r.guests.HardLinked(f.path); yes {
			q := shellescape.Quote(f.path)
			return ui.Refused("not running git in %s: git reads %s, which has hard links, and one may be in %s, which VM %s can write", ui.Clean(r.Top), ui.Clean(f.path), ui.Clean(w), vm).
				Hint(ui.CmdFor("replace the hard link with a copy", "cp -p "+q+" "+shellescape.Quote(f.path+".new")+" && mv "+shellescape.Quote(f.path+".new")+" "+q), detachHint(w, vm))
		}
	}
	inTree := map[string]bool{}
	for _, f := range s.reads {
		if len(r.inWorkTree(f.trail)) > 0 {
			inTree[f.path] = true
		}
	}
	partial := slices.ContainsFunc(s.all, func(v setting) bool {
		_, name := sectionOf(v.key)
		return name == "partialclone" || name == "promisor" && v.value != "false"
	})
	for _, v := range s.all {
		if runsProgram(v.key) {
			for _, w := range commandFiles(v.value, r.Top) {
				t, _ := writable.Trail(w.file)
				for _, p := range t {
					if dir, vm, yes := r.guests.FolderAround(p); yes {
						return ui.Refused("not running git in %s: its setting %s runs %s, and VM %s can write %s", ui.Clean(r.Top), ui.Clean(v.key), ui.Clean(w.file), vm, ui.Clean(dir)).
							Hint(detachHint(dir, vm), unsetHint(v))
					}
				}
			}
		}
		if section, _ := sectionOf(v.key); inTree[v.file] && partial && (runsProgram(v.key) || slices.Contains([]string{"remote", "url", "http", "protocol", "extensions"}, section)) {
			return ui.Refused("not running git in %s: fetching this partial clone's missing objects is configured in %s, a file of the work tree that a commit can change (%s)", ui.Clean(r.Top), ui.Clean(v.file), ui.Clean(v.key)).
				Hint(unsetHint(v))
		}
	}
	return nil
}

// RefuseURLRewrite refuses a configuration that rewrites OpenConnection, the address that tells git
// to use an open connection.
func (r Repo) RefuseURLRewrite(ctx context.Context) error {
	s, err := r.settings(ctx)
	if err != nil {
		return err
	}
	for _, v := range s.all {
		section, name := sectionOf(v.key)
		if section == "url" && (name == "insteadof" || name == "pushinsteadof") && strings.HasPrefix(OpenConnection, v.value) {
			return ui.Refused("not running git in %s: its setting %s rewrites the address of the VM's clone", ui.Clean(r.Top), ui.Clean(v.key)).Hint(unsetHint(v))
		}
	}
	return nil
}

// OpenConnection is the address of the clone for git's "fd" transport (gitremote-helpers:
// git-remote-fd(1)).
const OpenConnection = "fd::3,4/guest"

func (r Repo) refuse(file, at, folder, vm string) error {
	e := ui.Refused("not running git in %s: git reads %s, and VM %s can write %s, so that VM could run any program on this machine", ui.Clean(r.Top), ui.Clean(file), vm, ui.Clean(folder)).
		Hint(detachHint(folder, vm), ui.CmdFor("then, if that VM needs it, attach it read-only", "aivm attach "+shellescape.Quote(folder)+" --vm "+vm+" --access ro"))
	if st, err := os.Lstat(file); err == nil && st.Mode()&os.ModeSymlink != 0 && !writable.Within(filepath.Clean(file), folder) {
		e = e.Hint(ui.CmdFor("or review the file, then replace the link with a copy", "cp --remove-destination \"$(readlink -f "+shellescape.Quote(file)+")\" "+shellescape.Quote(file)))
	}
	return e
}

func detachHint(folder, vm string) ui.Hint {
	return ui.CmdFor("detach the folder", "aivm detach "+shellescape.Quote(folder)+" --vm "+vm)
}

func unsetHint(v setting) ui.Hint {
	return ui.CmdFor("or remove the setting", "git config --file "+shellescape.Quote(v.file)+" --unset-all "+shellescape.Quote(v.key))
}

// trustedProgram refuses to run git if a guest can write the program, or a directory earlier in
// PATH where it could put another one.
func (r Repo) trustedProgram() error {
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if !filepath.IsAbs(dir) {
			continue // os/exec starts nothing from relative directories
		}
		path := dir + "/git"
		t, _ := writable.Trail(path)
		for _, p := range t {
			if w, vm, yes := r.guests.FolderAround(p); yes {
				return ui.Refused("not running git: PATH contains %s, and VM %s can write %s", ui.Clean(path), vm, ui.Clean(w)).
					Hint(detachHint(w, vm), ui.CmdFor("or remove the folder from PATH, which is shown by", "echo $PATH"))
			}
		}
		if _, err := exec.LookPath(path); err == nil {
			return nil
		}
	}
	return nil
}

// inWorkTree returns those of the paths that are in the work tree, where a commit can change them,
// relative to its top.
func (r Repo) inWorkTree(places []string) []string {
	var out []string
	for _, p := range places {
		if p == r.Top || !writable.Within(p, r.Top) || writable.Within(p, r.GitDir) || writable.Within(p, r.CommonDir) || writable.Within(p, filepath.Join(r.Top, ".git")) {
			continue
		}
		out = append(out, strings.TrimPrefix(p, strings.TrimSuffix(r.Top, "/")+"/"))
	}
	return out
}
