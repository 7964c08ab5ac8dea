package carry

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"aivm.dev/aivm/gitsync/compare"
	"aivm.dev/aivm/gitsync/guestscript"
	"aivm.dev/aivm/gitsync/hostgit"
	"aivm.dev/aivm/gitsync/transfer"
	"aivm.dev/aivm/internal/capture"
	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/ui"
)

// lfsPointer matches the file that git-lfs stores in git in place of the real content (git-lfs,
// docs/spec.md).
var lfsPointer = regexp.MustCompile(`\Aversion https://git-lfs\.github\.com/spec/v1\n(?:ext-[^\n]*\n)*oid sha256:([0-9a-f]{64})\nsize ([0-9]+)\n`)

// lfsObjects returns the names of the git-lfs objects of the commit.
func lfsObjects(ctx context.Context, h compare.Host) ([]string, error) {
	_, err := h.Repo.Git(ctx, "grep", "-q", "-I", "-E", "filter=lfs", h.Head, "--", ".gitattributes", "**/.gitattributes")
	if hostgit.FailedWith(err, 1) {
		return nil, nil
	}
	if err != nil {
		return nil, hostgit.ReadError(h.Repo, err)
	}
	b, err := h.Repo.Git(ctx, "grep", "-z", "--name-only", "-I", "-e", "^version https://git-lfs.github.com/spec/v1$", h.Head, "--")
	if hostgit.FailedWith(err, 1) {
		return nil, nil
	}
	if err != nil {
		return nil, hostgit.ReadError(h.Repo, err)
	}
	var in strings.Builder
	for _, n := range strings.Split(strings.TrimRight(string(b), "\x00"), "\x00") {
		if !strings.Contains(n, "\n") {
			in.WriteString(n + "\n") // COMMIT:PATH
		}
	}
	b, err = hostgit.Run(ctx, hostgit.Call{Repo: h.Repo, Args: []string{"cat-file", "--batch=%(objectsize)"}, Stdin: strings.NewReader(in.String())})
	if err != nil {
		return nil, hostgit.ReadError(h.Repo, err)
	}
	var out []string
	r := bufio.NewReader(bytes.NewReader(b))
	for {
		head, err := r.ReadString('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		n, aerr := strconv.Atoi(strings.TrimSpace(head))
		if err != nil || aerr != nil {
			return nil, fmt.Errorf("cannot parse %q of git cat-file", ui.CleanTo(head, 100))
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

// LFS sends the git-lfs objects that the host has to the clone, before the push of the commit that
// refers to them.
func LFS(ctx context.Context, p transfer.Peer, h compare.Host) (missing []string, err error) {
	oids, err := lfsObjects(ctx, h)
	if err != nil || len(oids) == 0 {
		return nil, err
	}
	store := filepath.Join(h.Repo.CommonDir, "lfs/objects")
	var here []string
	for _, o := range oids {
		if st, err := os.Lstat(filepath.Join(store, hostgit.LFSPath(o))); err == nil && st.Mode().IsRegular() {
			here = append(here, o)
		}
	}
	if n := len(oids) - len(here); n > 0 {
		missing = append(missing, fmt.Sprintf("%d git-lfs objects are not on this machine either: run git lfs fetch, then push again", n))
	}
	out, stderr := capture.Head{Limit: 16 << 20}, capture.Head{Limit: 4 << 10}
	code, err := p.Conn.Run(ctx, guest.Cmd{
		Argv: []string{"sh", "-c", guestscript.LFS, "sh", p.Dir}, Stdin: strings.NewReader(strings.Join(here, "\n") + "\n"), Stdout: &out, Stderr: &stderr,
	})
	if err != nil {
		return missing, err
	}
	if code != 0 {
		return missing, ui.Failed("listing the git-lfs objects of VM %s: %s", p.VM, ui.CleanTo(stderr.String(), 200))
	}
	answer := strings.Fields(out.String())
	if !slices.Contains(answer, "git-lfs") {
		missing = append(missing, fmt.Sprintf("git-lfs is not installed in VM %s, so its files are pointers there: run ssh %s sudo apt-get install -y git-lfs, then git lfs checkout in the clone", p.VM, p.VM))
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
	p.Notef("sending %d git-lfs objects", len(send))
	r, w := io.Pipe()
	go func() { _ = w.CloseWithError(tarFiles(w, store, send)) }()
	err = p.Conn.PutTar(ctx, path.Join(p.Dir, ".git/lfs/objects"), r)
	_ = r.Close()
	return missing, err
}

func tarFiles(w io.Writer, store string, oids []string) error {
	t := tar.NewWriter(w)
	for _, o := range oids {
		f, err := os.Open(filepath.Join(store, hostgit.LFSPath(o)))
		if err != nil {
			return err
		}
		var st fs.FileInfo
		if st, err = f.Stat(); err == nil {
			if err = t.WriteHeader(&tar.Header{Name: hostgit.LFSPath(o), Mode: 0o444, Size: st.Size(), Typeflag: tar.TypeReg}); err == nil {
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
