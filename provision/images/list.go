package images

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"aivm.dev/aivm/provision/loop"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/domain"
	"aivm.dev/aivm/provision/image"
)

// ImageListing is the JSON of "image list".
type ImageListing struct {
	Schema    int                  `json:"schema"`
	Cache     string               `json:"cache"`
	Images    []ListedImage        `json:"images"`
	Catalogue []ListedRelease      `json:"catalogue"`
	Usage     string               `json:"usage"` // "known", or "unknown: " and why libvirt could not be asked which VMs use the images
	Parts     int64                `json:"parts"` // bytes of unfinished downloads
	pools     map[string]poolUsage // by the first 32 digits of the SHA-256
}

// ListedImage is an image in the cache or, without a path, only in a pool.
type ListedImage struct {
	Names       []string `json:"names"` // none: an older release
	Source      string   `json:"source,omitempty"`
	SHA256      string   `json:"sha256"` // of an image only in a pool: the first 32 digits
	State       string   `json:"state"`  // "ok", "damaged", "pool"
	Format      string   `json:"format,omitempty"`
	Size        int64    `json:"size"`
	VirtualSize int64    `json:"virtual_size,omitempty"`
	Release     string   `json:"release,omitempty"`
	Verified    string   `json:"verified,omitempty"`
	Added       string   `json:"added,omitempty"`
	Path        string   `json:"path,omitempty"`
	Pooled      int64    `json:"pooled"`  // bytes in libvirt's storage pools
	UsedBy      []string `json:"used_by"` // VMs; those of another user with the uid
}

// ListedRelease is an image of the catalogue.
type ListedRelease struct {
	Name    string   `json:"name"`
	Title   string   `json:"title"`
	From    string   `json:"from"`
	Arches  []string `json:"arches"`
	MB      int      `json:"mb,omitempty"`
	Default bool     `json:"default"`
	Cached  bool     `json:"cached"`
	Signed  bool     `json:"signed"`
}

// poolUsage holds the pools that an image is in, and its users.
type poolUsage struct {
	bytes int64
	users []string
	where []poolRef
}

type poolRef struct{ pool, dir string }

// List lists the images in the cache and in the pools, and the catalogue. It changes nothing and
// uses no privileges.
func (e Part) List(ctx context.Context) (ImageListing, error) {
	out := ImageListing{Schema: 1, Cache: e.Cache.Dir, Images: []ListedImage{}, Usage: "known"}
	cachedImages, err := e.Cache.List()
	if err != nil {
		return out, err
	}
	l, err := e.Libvirt(ctx)
	if err == nil {
		out.pools, err = e.inPools(ctx, l)
	}
	if err != nil && !e.LibvirtAbsent(err) {
		out.Usage = "unknown: " + err.Error()
	}
	poolOnly := map[string]bool{}
	for sum := range out.pools {
		poolOnly[sum] = true
	}
	for _, k := range cachedImages {
		sum := k.SHA256[:min(32, len(k.SHA256))]
		delete(poolOnly, sum)
		i := ListedImage{
			Names: k.Names, Source: k.Source, SHA256: k.SHA256, State: "ok", Format: k.Format, Size: k.Size, VirtualSize: k.VirtualSize,
			Release: k.Release, Verified: k.Verified, Added: k.Added, Path: k.Path, Pooled: out.pools[sum].bytes, UsedBy: out.pools[sum].users,
		}
		if !k.Complete {
			i.State = "damaged"
		}
		out.Images = append(out.Images, i)
	}
	for sum := range poolOnly {
		p := out.pools[sum]
		out.Images = append(out.Images, ListedImage{SHA256: sum, State: "pool", Pooled: p.bytes, UsedBy: p.users})
	}
	for i := range out.Images {
		if out.Images[i].Names == nil {
			out.Images[i].Names = []string{}
		}
		if out.Images[i].UsedBy == nil {
			out.Images[i].UsedBy = []string{}
		}
	}
	slices.SortStableFunc(out.Images[len(cachedImages):], func(a, b ListedImage) int { return strings.Compare(a.SHA256, b.SHA256) })
	out.Catalogue = e.catalogue(cachedImages)
	_, out.Parts = e.Cache.Parts()
	return out, nil
}

func (e Part) catalogue(cachedImages []image.CachedImage) []ListedRelease {
	cached := func(name string) bool {
		return slices.ContainsFunc(cachedImages, func(k image.CachedImage) bool { return slices.Contains(k.Names, name) })
	}
	var out []ListedRelease
	for _, r := range image.Releases() {
		out = append(out, ListedRelease{
			Name: r.Name, Title: r.Title, From: r.Host(), Arches: r.Arches, MB: r.MB, Default: r.Name == image.Default, Cached: cached(r.Name), Signed: r.Signed,
		})
	}
	for _, name := range image.Known() {
		if d, ok := strings.CutPrefix(name, image.KindPackages+":"); ok {
			out = append(out, ListedRelease{
				Name: name, Title: d + ", built here", From: "this machine's package mirror", Arches: []string{"amd64"}, Cached: cached(name), Signed: true,
			})
		}
	}
	return out
}

// inPools lists the base images in the pools of this user's VMs, with the VMs that use them.
func (e Part) inPools(ctx context.Context, l *virt.Conn) (map[string]poolUsage, error) {
	store, err := e.Load()
	if err != nil {
		return nil, err
	}
	dirs := []string{e.BaseDir(store.Config.Defaults.Paths)}
	for _, vm := range store.Config.VMs {
		dirs = append(dirs, e.BaseDir(vm.Paths))
	}
	slices.Sort(dirs)
	out := map[string]poolUsage{}
	for _, dir := range slices.Compact(dirs) {
		p, err := l.PoolAt(ctx, dir)
		if errors.Is(err, virt.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if !p.Active {
			return nil, fmt.Errorf("the storage pool at %s is not active", dir)
		}
		for _, b := range domain.Bases(p) {
			u := out[b.Sum]
			u.bytes += int64(b.Bytes)
			u.where = append(u.where, poolRef{p.Name, dir})
			for _, key := range b.Users {
				u.users = append(u.users, e.vmOf(key))
			}
			out[b.Sum] = u
		}
	}
	return out, nil
}

// vmOf returns the name of the VM with that key; for a VM of another user, with the uid.
func (e Part) vmOf(key string) string {
	uid, name, ok := strings.Cut(key, "-")
	if !ok || uid == strconv.Itoa(e.UID) {
		return name
	}
	return name + " (uid " + uid + ")"
}

// Verified is the result of "image verify" for one image.
type Verified struct {
	Names  []string `json:"names"`
	SHA256 string   `json:"sha256"`
	State  string   `json:"state"` // "ok", "damaged"
	Detail string   `json:"detail,omitempty"`
	Fix    []string `json:"fix,omitempty"`
}

// Verify reads the images that words name, or all images of the cache, and compares their digests.
func (e Part) Verify(ctx context.Context, words []string) ([]Verified, error) {
	cachedImages, err := e.selected(words)
	if err != nil {
		return nil, err
	}
	out := []Verified{}
	for _, k := range cachedImages {
		v := Verified{Names: k.Names, SHA256: k.SHA256, State: "ok", Detail: k.Verified}
		if v.Names == nil {
			v.Names = []string{}
		}
		task := e.UI.Task("reading " + label(k))
		err := e.Cache.Verify(ctx, k.Entry, func(_ string, f float64) { task.Fraction(f) })
		switch {
		case err == nil:
			task.Done()
		case errors.Is(err, image.ErrDamaged):
			task.Fail()
			v.State, v.Detail, v.Fix = "damaged", err.Error(), refetchCommand(k)
		default:
			task.Fail()
			return out, err
		}
		out = append(out, v)
	}
	return out, nil
}

// refetchCommand returns the command to fetch an image again or, if that is not possible, to remove
// it.
func refetchCommand(k image.CachedImage) []string {
	for _, n := range k.Names {
		if r, err := image.Parse(n); err == nil && r.Kind != image.KindLocal && r.Kind != image.KindURL {
			return []string{"aivm image fetch " + shellescape.Quote(n) + " --again"}
		}
	}
	return []string{"aivm image remove " + k.SHA256[:min(16, len(k.SHA256))]}
}

func label(k image.CachedImage) string {
	if len(k.Names) > 0 {
		return k.Names[0]
	}
	return k.SHA256[:min(16, len(k.SHA256))]
}

func (e Part) selected(words []string) ([]image.CachedImage, error) {
	if len(words) == 0 {
		return e.Cache.List()
	}
	var out []image.CachedImage
	for _, w := range words {
		ks, err := e.Cache.Select(w)
		if err != nil {
			return nil, err
		}
		for _, k := range ks {
			if !slices.ContainsFunc(out, func(o image.CachedImage) bool { return o.SHA256 == k.SHA256 }) {
				out = append(out, k)
			}
		}
	}
	return out, nil
}

// Removed is what `image remove` did.
type Removed struct {
	Changed bool  `json:"changed"`
	Freed   int64 `json:"freed"` // bytes
	Schema  int   `json:"schema"`
}

// RemoveImages removes images from the cache and the pools: those that words name, or all that no
// VM uses. It refuses to remove an image that a VM uses.
func (e Part) RemoveImages(ctx context.Context, words []string, unused bool) (Removed, error) {
	out := Removed{Schema: 1}
	if len(words) > 0 == unused {
		return out, ui.Usage("name the images to remove, or use --unused").Hint(ui.Cmd("aivm image list"), ui.Cmd("aivm image remove --unused"))
	}
	_, err := e.RunJob(ctx, loop.Job{Plan: func(ctx context.Context) (p plan.Plan, err error) {
		list, err := e.listForRemoval(ctx)
		if err != nil {
			return p, err
		}
		chosen, err := e.chosen(list, words)
		if err != nil {
			return p, err
		}
		p, out.Freed, err = e.planRemovals(list, chosen, unused)
		out.Changed = !p.Empty()
		return p, err
	}})
	return out, err
}

// planRemovals plans to remove the chosen images, or those of them that no VM uses. freed is how
// many bytes that frees.
func (e Part) planRemovals(list ImageListing, chosen []ListedImage, unused bool) (p plan.Plan, freed int64, err error) {
	p.Stage = plan.Host
	for _, i := range chosen {
		if len(i.UsedBy) > 0 {
			if unused {
				continue
			}
			return p, 0, ui.Refused("image %s is used by %s", i.label(), strings.Join(i.UsedBy, ", ")).
				Hint(ui.CmdFor("to delete its VMs", "aivm vm delete NAME"), ui.CmdFor("to remove only unused images", "aivm image remove --unused"))
		}
		if unused && i.State == "pool" {
			continue // it may be another user's, who is about to use it
		}
		freed += i.Size + i.Pooled
		p.Add(e.planRemoval(i, list.pools[i.SHA256[:min(32, len(i.SHA256))]])...)
	}
	if unused && list.Parts > 0 {
		freed += list.Parts
		p.Add(plan.Action{
			ID: "image.parts", Why: fmt.Sprintf("remove unfinished downloads (%d MB)", list.Parts>>20), Shows: []string{"rm " + shellescape.Quote(e.Cache.Dir) + "/.fetch-*"}, Consent: plan.Ask,
			Do: func(ctx context.Context) error { return e.Cache.DropParts(ctx, nil) },
		})
	}
	return p, freed, nil
}

func (i ListedImage) label() string {
	if len(i.Names) > 0 {
		return i.Names[0]
	}
	return i.SHA256[:min(16, len(i.SHA256))]
}

// listForRemoval returns the list with the VMs that use each image. It returns an error if those
// are not known.
func (e Part) listForRemoval(ctx context.Context) (ImageListing, error) {
	l, err := e.List(ctx)
	if err != nil || l.Usage == "known" {
		return l, err
	}
	if _, err := e.LibvirtWithHelp(ctx); err != nil {
		return l, err
	}
	if l, err = e.List(ctx); err == nil && l.Usage != "known" {
		err = ui.Refused("the VMs that use the images are %s", l.Usage).Hint(ui.Cmd("aivm host doctor"))
	}
	return l, err
}

func (e Part) chosen(list ImageListing, words []string) ([]ListedImage, error) {
	if len(words) == 0 {
		return list.Images, nil
	}
	var out []ListedImage
	for _, w := range words {
		n := len(out)
		cachedImages, err := e.Cache.Select(w)
		for _, i := range list.Images {
			inCache := slices.ContainsFunc(cachedImages, func(k image.CachedImage) bool { return k.SHA256 == i.SHA256 })
			if inCache || i.State == "pool" && len(w) >= 8 && strings.HasPrefix(i.SHA256, strings.ToLower(w[:min(32, len(w))])) {
				out = append(out, i)
			}
		}
		if len(out) == n {
			return nil, err
		}
	}
	return out, nil
}

func (e Part) planRemoval(i ListedImage, at poolUsage) []plan.Action {
	var out []plan.Action
	for _, w := range at.where {
		out = append(out, plan.Action{
			ID: "image.unpool:" + i.SHA256[:8], Why: fmt.Sprintf("remove image %s from the storage pool %s", i.label(), w.pool),
			Shows: []string{domain.PooledShows(w.pool, i.SHA256)}, Consent: plan.Ask,
			Do: func(ctx context.Context) error {
				l, err := e.Libvirt(ctx)
				if err != nil {
					return err
				}
				return domain.RemoveBase(ctx, l, w.pool, w.dir, i.SHA256)
			},
		})
	}
	if i.State != "pool" {
		out = append(out, plan.Action{
			ID: "image.remove:" + i.SHA256[:8], Why: fmt.Sprintf("remove image %s from the cache (%d MB)", i.label(), i.Size>>20),
			Shows: []string{"rm " + shellescape.Quote(i.Path)}, Consent: plan.Ask,
			Do: func(ctx context.Context) error { return e.Cache.Remove(ctx, i.SHA256, nil) },
		})
	}
	return out
}

// ImageWords returns the values of --image for shell completion.
func (e Part) ImageWords() []string {
	out := image.Known()
	for _, n := range e.Cache.Names() {
		if !strings.Contains(n, "/") && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}
