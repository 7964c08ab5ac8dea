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

	"github.com/google/renameio/v2"

	"aivm.dev/aivm/internal/ui"
)

const indexSchema = 1

// index is the small file beside the images that makes a warm look-up cheap:
// no image is hashed twice.
type index struct {
	Schema  int               `json:"schema"`
	Images  []indexed         `json:"images"`
	Sources map[string]string `json:"sources"` // Ref.String() to digest
	Files   []fileKey         `json:"files"`
}

type indexed struct {
	SHA256      string `json:"sha256"`
	Format      string `json:"format"`
	VirtualSize int64  `json:"virtual_size"`
	Size        int64  `json:"size"`
	Source      string `json:"source"` // what it was first added from
	SHA512      string `json:"sha512,omitempty"`
	Release     string `json:"release,omitempty"`  // the day it was published or built
	Verified    string `json:"verified,omitempty"` // how, for people
	Added       string `json:"added,omitempty"`
	Signed      int64  `json:"signed,omitempty"` // when the list that names it was signed
}

// fileKey is a local file as it was when it was hashed. The time of the last
// status change is part of it: mtime can be set back.
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
			return ix, ui.Refused("the list of cached images is damaged: %s: %w", c.indexPath(), err).
				Hint(ui.CmdFor("images are found or made again without it", "rm "+c.indexPath()))
		}
		if ix.Schema != indexSchema {
			return ix, ui.Refused("the list of cached images was written by another version of aivm: %s", c.indexPath()).
				Hint(ui.CmdFor("images are found or made again without it", "rm "+c.indexPath()))
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

// record adds or replaces an image and where it was found.
func (ix *index) record(im indexed, source string, file *fileKey) {
	at := slices.IndexFunc(ix.Images, func(o indexed) bool { return o.SHA256 == im.SHA256 })
	switch {
	case at < 0:
		ix.Images = append(ix.Images, im)
	case ix.Images[at].Signed > 0 && im.Signed == 0:
		// The same bytes from elsewhere: what their publisher says of them stays.
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
