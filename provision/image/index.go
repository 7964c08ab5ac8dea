package image

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"al.essio.dev/pkg/shellescape"
	"github.com/google/renameio/v2"

	"aivm.dev/aivm/internal/ui"
)

const indexSchema = 1

// index is the JSON file beside the images that makes a lookup cheap: no image has to be hashed
// twice.
type index struct {
	Schema  int               `json:"schema"`
	Images  []indexed         `json:"images"`
	Sources map[string]string `json:"sources"` // SHA-256 by Ref.source()
	Files   []fileKey         `json:"files"`
}

type indexed struct {
	SHA256      string `json:"sha256"`
	Format      string `json:"format"`
	VirtualSize int64  `json:"virtual_size"`
	Size        int64  `json:"size"`
	Source      string `json:"source"` // where it was first added from
	SHA512      string `json:"sha512,omitempty"`
	Release     string `json:"release,omitempty"`  // the day it was published or built
	Verified    string `json:"verified,omitempty"` // how, as text
	Added       string `json:"added,omitempty"`
	Signed      int64  `json:"signed,omitempty"` // when its list of digests was signed, Unix time
}

// fileKey identifies a local file and its state when it was hashed. It includes ctime, because
// mtime can be set back.
type fileKey struct {
	Path   string    `json:"path"`
	Dev    uint64    `json:"dev"`
	Inode  uint64    `json:"inode"`
	Size   int64     `json:"size"`
	MTime  time.Time `json:"mtime"`
	CTime  time.Time `json:"ctime"`
	SHA256 string    `json:"sha256"`
}

func (k fileKey) same(o fileKey) bool {
	return k.Path == o.Path && k.Dev == o.Dev && k.Inode == o.Inode && k.Size == o.Size &&
		k.MTime.Equal(o.MTime) && k.CTime.Equal(o.CTime)
}

func keyOf(path string, st fs.FileInfo) fileKey {
	k := fileKey{Path: path, Size: st.Size(), MTime: st.ModTime().UTC()}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		k.Dev, k.Inode = uint64(sys.Dev), sys.Ino
		k.CTime = time.Unix(sys.Ctim.Unix()).UTC()
	}
	return k
}

func (c Cache) indexPath() string { return filepath.Join(c.Dir, "index.json") }

func (c Cache) loadIndex() (index, error) {
	ix := index{Schema: indexSchema}
	b, err := os.ReadFile(c.indexPath())
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return ix, ui.Failed("reading the image cache: %w", err)
	default:
		if err := json.Unmarshal(b, &ix); err != nil {
			return ix, ui.Refused("the index of the image cache is damaged: %s: %w", c.indexPath(), err).
				Hint(ui.CmdFor("delete it; images are fetched or built again", "rm "+shellescape.Quote(c.indexPath())))
		}
		if ix.Schema != indexSchema {
			return ix, ui.Refused("the index of the image cache was written by another version of aivm: %s", c.indexPath()).
				Hint(ui.CmdFor("delete it; images are fetched or built again", "rm "+shellescape.Quote(c.indexPath())))
		}
	}
	if ix.Sources == nil {
		ix.Sources = map[string]string{}
	}
	return ix, nil
}

func (c Cache) saveIndex(ix index) error {
	b, err := json.MarshalIndent(ix, "", "  ")
	if err != nil {
		return err
	}
	return renameio.WriteFile(c.indexPath(), append(b, '\n'), 0o600, renameio.WithTempDir(c.Dir))
}

// record adds or replaces an image in the index, with the source or file it came from.
func (ix *index) record(im indexed, source string, file *fileKey) {
	at := slices.IndexFunc(ix.Images, func(o indexed) bool { return o.SHA256 == im.SHA256 })
	switch {
	case at < 0:
		ix.Images = append(ix.Images, im)
	case ix.Images[at].Signed > 0 && im.Signed == 0:
		// The same bytes from another source: keep the record with the publisher's signature.
	default:
		ix.Images[at] = im
	}
	if file == nil {
		ix.Sources[source] = im.SHA256
		return
	}
	file.SHA256 = im.SHA256
	ix.Files = slices.DeleteFunc(ix.Files, func(o fileKey) bool { return o.Path == file.Path })
	ix.Files = append(ix.Files, *file)
}
