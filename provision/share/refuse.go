package share

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
)

// secrets are the paths below a home that hold keys, tokens or passwords.
var secrets = []string{
	".ssh", ".gnupg", ".aws", ".azure", ".kube", ".docker",
	".config/gh", ".config/gcloud", ".config/op", ".config/sops",
	".password-store", ".netrc", ".pypirc", ".npmrc",
	".mozilla", ".thunderbird", ".config/google-chrome", ".config/chromium", ".local/share/keyrings", ".config/rclone", ".terraform.d",
}

// homeMarks are paths whose presence shows that a folder is a user's home.
var homeMarks = []string{".ssh", ".gnupg", ".aws", ".password-store", ".netrc", ".config/gh", ".config/gcloud", ".local/share/keyrings"}

// notProjects are directories that are not shared themselves; folders in them may be.
var notProjects = []string{"/home", "/root", "/usr", "/usr/bin", "/usr/sbin", "/usr/lib", "/usr/local", "/bin", "/sbin", "/lib", "/lib64", "/var", "/run"}

// Refuse refuses folders that a guest must not get by mistake: homes, directories with
// keys, those of the system, and aivm's own. A folder is refused if it is one of them,
// lies in one or holds one, with links resolved on both sides. own are aivm's config,
// state and cache directories. A path in allow (the values of --allow-sensitive) lifts
// the refusal for exactly that folder, except for "/" and for folders in aivm's own
// directories.
func Refuse(hostPath, home string, own, allow []string) error {
	if err := checkPath("folder", hostPath); err != nil {
		return err
	}
	folder := pathVariants(hostPath)
	touches := func(p string) (in, holds bool) {
		for _, s := range pathVariants(p) {
			for _, f := range folder {
				in = in || f == s || below(f, s)
				holds = holds || f == s || below(s, f)
			}
		}
		return in, holds
	}
	if slices.Contains(folder, "/") {
		return ui.Refused("the root directory / cannot be shared").Hint(ui.CmdFor("share the project's own folder", "aivm code FOLDER"))
	}
	own = append(slices.Clone(own), root.ExportBase)
	for _, o := range own {
		if in, _ := touches(o); in {
			return ui.Refused("%s belongs to aivm itself (%s) and cannot be shared", hostPath, o).Hint(ui.CmdFor("share the project's own folder", "aivm code FOLDER"))
		}
	}
	if allowed(hostPath, allow) {
		return nil
	}
	no := func(why string) error {
		return ui.Refused("%s is not shared: %s", hostPath, why).
			Hint(ui.Remark("if the guest may have it, repeat the command with: --allow-sensitive "+quote(hostPath)), ui.Remark("or attach the project's own folder"))
	}
	for _, p := range []string{"/etc", "/proc", "/sys", "/dev", "/boot"} {
		if in, holds := touches(p); in || holds {
			return no(p + " belongs to this machine's system")
		}
	}
	if home != "" {
		if _, holds := touches(home); holds {
			return no("it holds the home " + home)
		}
	}
	for _, d := range notProjects {
		if _, holds := touches(d); holds {
			return no(d + " is not a project folder")
		}
	}
	// Secrets in another user's home, or in root's.
	for _, f := range folder {
		for _, s := range secrets {
			if i := strings.Index(f+"/", "/"+s+"/"); i >= 0 {
				return no("keys or tokens are kept in " + f[:i+1+len(s)])
			}
		}
	}
	if home != "" {
		for _, s := range secrets {
			p := filepath.Join(home, s)
			if in, holds := touches(p); in || holds {
				return no("keys or tokens are kept in " + p)
			}
		}
	}
	for _, o := range own {
		if _, holds := touches(o); holds {
			return no("it holds aivm's own " + o)
		}
	}
	for _, m := range homeMarks {
		if _, err := os.Lstat(filepath.Join(hostPath, m)); err == nil {
			return no("it holds " + m + ", as a home does")
		}
	}
	return nil
}

// pathVariants returns a path as written and, if that differs, with its links
// resolved. Of a path that does not exist, the existing part is resolved.
func pathVariants(p string) []string {
	p = filepath.Clean(p)
	rest := ""
	for dir := p; ; {
		if resolved, err := filepath.EvalSymlinks(dir); err == nil {
			if resolved = filepath.Join(resolved, rest); resolved != p {
				return []string{p, resolved}
			}
			return []string{p}
		}
		if dir == "/" || !strings.Contains(dir, "/") {
			return []string{p}
		}
		rest = filepath.Join(filepath.Base(dir), rest)
		dir = filepath.Dir(dir)
	}
}
