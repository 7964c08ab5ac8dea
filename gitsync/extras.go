package gitsync

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"aivm.dev/aivm/internal/capture"
	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/ui"
)

// Submodules and the files of git-lfs are no part of a push. What is here of
// them goes along; what is not, or what the guest cannot use, is said.

// gitlinks are the submodules of a commit: path -> commit.
func (h Host) gitlinks(ctx context.Context, commit string) (map[string]string, error) {
	b, err := h.Repo.git(ctx, "ls-tree", "-r", "-z", commit)
	if err != nil {
		return nil, readError(h.Repo, err)
	}
	out := map[string]string{}
	for _, l := range strings.Split(string(b), "\x00") {
		if meta, p, ok := strings.Cut(l, "\t"); ok && strings.HasPrefix(meta, "160000 ") {
			out[p] = strings.Fields(meta)[2]
		}
	}
	return out, nil
}

// submoduleNames are the names of submodules by their path, as .gitmodules of
// the commit has them.
func (h Host) submoduleNames(ctx context.Context, commit string) map[string]string {
	b, err := h.Repo.git(ctx, "config", "-z", "--blob", commit+":.gitmodules", "--get-regexp", `^submodule\..*\.path$`)
	out := map[string]string{}
	if err != nil {
		return out
	}
	for _, l := range strings.Split(string(b), "\x00") {
		if k, v, ok := strings.Cut(l, "\n"); ok {
			name := strings.TrimSuffix(strings.TrimPrefix(k, "submodule."), ".path")
			if name != "" && !slices.Contains(strings.Split(name, "/"), "..") {
				out[v] = name
			}
		}
	}
	return out
}

// maxDepth bounds submodules of submodules.
const maxDepth = 5

// CarrySubmodules brings the submodules of the commit that was pushed to the
// clone, from the repositories they have here. missing says which could not be,
// and why.
func CarrySubmodules(ctx context.Context, p Peer, h Host) (carried, missing []string, err error) {
	return p.carry(ctx, h, h.Head, p.Dir, ".git", 0)
}

// carry works on one repository: its work tree in the guest is dir, its git
// directory there gitDir below it.
func (p Peer) carry(ctx context.Context, h Host, commit, dir, gitDir string, depth int) (carried, missing []string, err error) {
	links, err := h.gitlinks(ctx, commit)
	if err != nil || len(links) == 0 {
		return nil, nil, err
	}
	if depth == maxDepth {
		return nil, []string{fmt.Sprintf("submodules of %s are nested deeper than %d", ui.Clean(dir), maxDepth)}, nil
	}
	names := h.submoduleNames(ctx, commit)
	var ready []string
	for _, at := range slices.Sorted(maps.Keys(links)) {
		want := links[at]
		name := names[at]
		sub, serr := open(filepath.Join(h.Repo.Top, at), filepath.Join(h.Repo.Top, at, ".git"))
		sub.guests = h.Repo.guests
		if name == "" || serr != nil || !within(sub.GitDir, h.Repo.CommonDir) && !within(sub.GitDir, sub.Top) {
			missing = append(missing, fmt.Sprintf("submodule %s is not checked out here: git submodule update --init, then push again", ui.Clean(at)))
			continue
		}
		sh := Host{Repo: sub, Remote: h.Remote, Format: h.Format, Branch: "aivm", Head: want, Partial: true} // packed by git itself: it may be shallow
		if have, herr := sh.has(ctx, []string{want}); herr != nil || have[want] != "commit" {
			missing = append(missing, fmt.Sprintf("submodule %s lacks the commit %s here: git submodule update", ui.Clean(at), want[:10]))
			continue
		}
		modules := path.Join(dir, gitDir, "modules", name)
		old, _, rerr := p.run(ctx, "making the submodule "+at, submoduleScript, modules, h.Format)
		if rerr != nil {
			return carried, missing, rerr
		}
		if old = strings.TrimSpace(old); old != want {
			if !OID(old) {
				old = ""
			}
			sp := p
			sp.Dir = modules
			if _, err := Push(ctx, sp, sh, []RefUpdate{{Ref: "refs/aivm/submodule", Old: old, New: want}}, nil, nil); err != nil {
				missing = append(missing, fmt.Sprintf("submodule %s: %v", ui.Clean(at), err))
				continue
			}
		}
		ready = append(ready, at)
	}
	if len(ready) > 0 {
		out, code, err := p.run(ctx, "checking out submodules", checkoutSubmodulesScript, append([]string{dir}, ready...)...)
		if err != nil {
			return carried, missing, err
		}
		if code != 100 {
			missing = append(missing, "submodules could not be checked out in the VM: "+ui.CleanTo(strings.TrimSpace(out), 300))
			return carried, missing, nil
		}
	}
	for _, at := range ready {
		carried = append(carried, at)
		sub, _ := open(filepath.Join(h.Repo.Top, at), filepath.Join(h.Repo.Top, at, ".git"))
		sub.guests = h.Repo.guests
		sh := Host{Repo: sub, Remote: h.Remote, Format: h.Format}
		// The work tree's .git is a file; its directory is below the modules.
		c, m, err := p.carryNested(ctx, sh, links[at], path.Join(dir, at), path.Join(dir, gitDir, "modules", names[at]), depth+1)
		carried, missing = append(carried, c...), append(missing, m...)
		if err != nil {
			return carried, missing, err
		}
	}
	return carried, missing, nil
}

// carryNested is carry for a submodule whose git directory lies elsewhere.
func (p Peer) carryNested(ctx context.Context, h Host, commit, dir, gitDir string, depth int) ([]string, []string, error) {
	rel, err := filepath.Rel(dir, gitDir)
	if err != nil {
		return nil, nil, err
	}
	return p.carry(ctx, h, commit, dir, rel, depth)
}

// lfsPointer is the file git-lfs keeps in git instead of the real one
// (git-lfs, docs/spec.md).
var lfsPointer = regexp.MustCompile(`\Aversion https://git-lfs\.github\.com/spec/v1\n(?:ext-[^\n]*\n)*oid sha256:([0-9a-f]{64})\nsize ([0-9]+)\n`)

// lfsObjects are the large files of the commit: their names in the store.
func (h Host) lfsObjects(ctx context.Context) ([]string, error) {
	_, err := h.Repo.git(ctx, "grep", "-q", "-I", "-E", "filter=lfs", h.Head, "--", ".gitattributes", "**/.gitattributes")
	if failedWith(err, 1) {
		return nil, nil
	}
	if err != nil {
		return nil, readError(h.Repo, err)
	}
	b, err := h.Repo.git(ctx, "grep", "-z", "--name-only", "-I", "-e", "^version https://git-lfs.github.com/spec/v1$", h.Head, "--")
	if failedWith(err, 1) {
		return nil, nil
	}
	if err != nil {
		return nil, readError(h.Repo, err)
	}
	var in strings.Builder
	for _, n := range strings.Split(strings.TrimRight(string(b), "\x00"), "\x00") {
		if !strings.Contains(n, "\n") {
			in.WriteString(n + "\n") // COMMIT:PATH
		}
	}
	b, err = run(ctx, call{repo: h.Repo, args: []string{"cat-file", "--batch=%(objectsize)"}, stdin: strings.NewReader(in.String())})
	if err != nil {
		return nil, readError(h.Repo, err)
	}
	var out []string
	r := bufio.NewReader(bytes.NewReader(b))
	for {
		head, err := r.ReadString('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		n, aerr := atoi(strings.TrimSpace(head))
		if err != nil || aerr != nil {
			return nil, fmt.Errorf("git cat-file: %q is not understood", ui.CleanTo(head, 100))
		}
		text := make([]byte, n+1)
		if _, err := io.ReadFull(r, text); err != nil {
			return nil, err
		}
		if m := lfsPointer.FindSubmatch(text); m != nil {
			out = append(out, string(m[1]))
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

func lfsPath(oid string) string { return path.Join(oid[:2], oid[2:4], oid) }

// CarryLFS brings the large files of git-lfs that are here to the clone, before
// the push whose files stand for them.
func CarryLFS(ctx context.Context, p Peer, h Host) (missing []string, err error) {
	oids, err := h.lfsObjects(ctx)
	if err != nil || len(oids) == 0 {
		return nil, err
	}
	store := filepath.Join(h.Repo.CommonDir, "lfs/objects")
	var here []string
	for _, o := range oids {
		if st, err := os.Lstat(filepath.Join(store, lfsPath(o))); err == nil && st.Mode().IsRegular() {
			here = append(here, o)
		}
	}
	if n := len(oids) - len(here); n > 0 {
		missing = append(missing, fmt.Sprintf("%d files of git-lfs are not here either: git lfs fetch, then push again", n))
	}
	out, stderr := capture.Head{Limit: 16 << 20}, capture.Head{Limit: 4 << 10}
	code, err := p.Conn.Run(ctx, guest.Cmd{
		Argv: []string{"sh", "-c", lfsScript, "sh", p.Dir}, Stdin: strings.NewReader(strings.Join(here, "\n") + "\n"), Stdout: &out, Stderr: &stderr,
	})
	if err != nil {
		return missing, err
	}
	if code != 0 {
		return missing, ui.Failed("looking at the files of git-lfs in VM %s: %s", p.VM, ui.CleanTo(stderr.String(), 200))
	}
	answer := strings.Fields(out.String())
	if !slices.Contains(answer, "git-lfs") {
		missing = append(missing, fmt.Sprintf("git-lfs is not installed in VM %s, so its files are pointers there: ssh %s sudo apt-get install -y git-lfs, then git lfs checkout in the clone", p.VM, p.VM))
	}
	var send []string
	for _, o := range here {
		if slices.Contains(answer, o) {
			send = append(send, o)
		}
	}
	if len(send) == 0 {
		return missing, nil
	}
	p.note("sending %d files of git-lfs", len(send))
	r, w := io.Pipe()
	go func() { _ = w.CloseWithError(tarFiles(w, store, send)) }()
	err = p.Conn.PutTar(ctx, path.Join(p.Dir, ".git/lfs/objects"), r)
	_ = r.Close()
	return missing, err
}

func tarFiles(w io.Writer, store string, oids []string) error {
	t := tar.NewWriter(w)
	for _, o := range oids {
		f, err := os.Open(filepath.Join(store, lfsPath(o)))
		if err != nil {
			return err
		}
		var st fs.FileInfo
		if st, err = f.Stat(); err == nil {
			if err = t.WriteHeader(&tar.Header{Name: lfsPath(o), Mode: 0o444, Size: st.Size(), Typeflag: tar.TypeReg}); err == nil {
				_, err = io.Copy(t, f)
			}
		}
		_ = f.Close()
		if err != nil {
			return err
		}
	}
	return t.Close()
}
