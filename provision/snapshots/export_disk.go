package snapshots

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"al.essio.dev/pkg/shellescape"
	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/image"
	"aivm.dev/aivm/provision/session"
)

// diskExporter converts a disk and its backing files to one image file. The volumes belong to
// libvirt: they are downloaded through it, and qemu-img runs as the user.
type diskExporter struct {
	env    Part
	l      *virt.Conn
	pool   string
	report func(line string, fraction float64)
}

// workPrefix begins the names of its working directories in the image cache.
const workPrefix = ".prepare-"

// addToCache adds the disk, the first volume of chain, to the cache as ref. It holds the cache's
// lock, under which it also removes the working directories of killed runs.
func (f diskExporter) addToCache(ctx context.Context, chain []virt.Volume, ref image.Ref, verified string) (image.Entry, error) {
	cache := f.env.Cache
	release, err := cache.LockFetch(ctx, f.report)
	if err != nil {
		return image.Entry{}, err
	}
	defer release()
	staleDirs, _ := filepath.Glob(filepath.Join(cache.Dir, workPrefix+"*"))
	for _, d := range staleDirs {
		_ = os.RemoveAll(d)
	}
	if err := f.checkFreeSpace(chain); err != nil {
		return image.Entry{}, err
	}
	dir, err := os.MkdirTemp(cache.Dir, workPrefix)
	if err != nil {
		return image.Entry{}, ui.Failed("creating a directory for the image: %w", err)
	}
	defer os.RemoveAll(dir)
	files := make([]layer, 0, len(chain))
	for i, v := range chain {
		l, err := f.fetch(ctx, v, filepath.Join(dir, strconv.Itoa(i)))
		if err != nil {
			return image.Entry{}, err
		}
		files = append(files, l)
	}
	out := filepath.Join(dir, "image.qcow2")
	argv, err := convertArgv(files, out)
	if err != nil {
		return image.Entry{}, err
	}
	if err := f.convert(ctx, argv); err != nil {
		return image.Entry{}, err
	}
	r, err := os.Open(out)
	if err != nil {
		return image.Entry{}, err
	}
	defer r.Close()
	return cache.Add(ctx, r, ref, verified, f.report)
}

// layer is a local file with the content of one volume of the chain.
type layer struct{ path, format string }

// fetch returns a volume as a file: the cache's file if the volume is a base image from the cache,
// else a download at the path to.
func (f diskExporter) fetch(ctx context.Context, v virt.Volume, to string) (layer, error) {
	cachedImages, err := f.env.Cache.List()
	if err != nil {
		return layer{}, err
	}
	for _, k := range cachedImages {
		if k.Complete && strings.HasPrefix(v.Name, "base-"+k.SHA256[:32]) {
			return layer{k.Path, k.Format}, nil
		}
	}
	file, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return layer{}, err
	}
	defer file.Close()
	w := &countingWriter{w: file, ctx: ctx, total: int64(v.Allocation), report: f.report}
	if err := f.l.Download(ctx, f.pool, v.Name, w); err != nil {
		return layer{}, err
	}
	if w.err != nil {
		return layer{}, ui.Failed("writing the copy of the disk: %w", w.err).Hint(ui.Cmd("df -h " + shellescape.Quote(f.env.Cache.Dir)))
	}
	return layer{to, v.Format}, file.Close()
}

// countingWriter reports the progress of a download. libvirt's stream continues after a failed
// write, so the error is stored.
type countingWriter struct {
	w           io.Writer
	ctx         context.Context
	done, total int64
	lastReport  time.Time
	err         error
	report      func(string, float64)
}

// Write writes b and reports the progress.
func (c *countingWriter) Write(b []byte) (int, error) {
	if c.err == nil {
		c.err = c.ctx.Err()
	}
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.w.Write(b)
	c.done, c.err = c.done+int64(n), err
	if time.Since(c.lastReport) > 200*time.Millisecond {
		c.lastReport = time.Now()
		c.report("copying the disk", min(float64(c.done)/float64(max(c.total, 1)), 1))
	}
	return n, err
}

// checkFreeSpace refuses a chain that may not fit into the cache's file system.
func (f diskExporter) checkFreeSpace(chain []virt.Volume) error {
	var need uint64
	for _, v := range chain {
		need += 2 * v.Allocation // the copy, and its part of the image
	}
	var st unix.Statfs_t
	if err := unix.Statfs(f.env.Cache.Dir, &st); err != nil {
		return nil
	}
	if free := st.Bavail * uint64(st.Bsize); need > free {
		return ui.Failed("creating the image may need %d MB, but %s has %d MB free", need>>20, f.env.Cache.Dir, free>>20).Hint(ui.CmdFor("free some space there", "df -h "+shellescape.Quote(f.env.Cache.Dir)))
	}
	return nil
}

// convertArgv returns the qemu-img command that converts layers, the topmost first, to the file
// out. It names the format of each layer, so that qemu-img guesses none from what a guest wrote.
func convertArgv(layers []layer, out string) ([]string, error) {
	var node any
	for i := len(layers) - 1; i >= 0; i-- {
		n := map[string]any{
			"driver": layers[i].format, "read-only": true,
			"file": map[string]any{"driver": "file", "filename": layers[i].path, "locking": "off"},
		}
		if layers[i].format == image.QCOW2 {
			n["backing"] = node // nil: no backing file, even if the header names one
		} else if node != nil {
			return nil, fmt.Errorf("a %s disk has a backing file", layers[i].format)
		}
		node = n
	}
	src, err := json.Marshal(node)
	if err != nil {
		return nil, err
	}
	return []string{"qemu-img", "convert", "-p", "-O", "qcow2", "-W", "--", "json:" + string(src), out}, nil
}

func (f diskExporter) convert(ctx context.Context, argv []string) error {
	c := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var stderr bytes.Buffer
	c.Stdout, c.Stderr = &percent{report: f.report}, &stderr
	err := c.Run()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return ui.Failed("qemu-img convert: %w: %s", err, session.LastLine(stderr.String()))
	}
	return nil
}

// percent parses the progress that qemu-img prints, "    (12.34/100%)\r".
type percent struct{ report func(string, float64) }

// Write reports the last percentage in b.
func (p *percent) Write(b []byte) (int, error) {
	if at := bytes.LastIndexByte(b, '('); at >= 0 {
		figure, _, _ := bytes.Cut(b[at+1:], []byte("/"))
		if v, err := strconv.ParseFloat(string(figure), 64); err == nil {
			p.report("converting to one file", v/100)
		}
	}
	return len(b), nil
}
