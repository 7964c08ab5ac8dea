package images

import (
	"strings"
	"testing"

	"aivm.dev/aivm/provision/loop/looptest"
)

// planRemovals removes no image that a VM uses and, with --unused, none that is only in a pool.
func TestPlanRemovals(t *testing.T) {
	sum := func(c string) string { return strings.Repeat(c, 64) }
	free := ListedImage{Names: []string{"free"}, SHA256: sum("a"), State: "ok", Size: 1, Pooled: 2}
	used := ListedImage{Names: []string{"used"}, SHA256: sum("b"), State: "ok", Size: 4, UsedBy: []string{"t"}}
	pool := ListedImage{SHA256: sum("c")[:32], State: "pool", Pooled: 8}
	list := ImageListing{Images: []ListedImage{free, used, pool}, Parts: 16, pools: map[string]poolUsage{
		free.SHA256[:32]: {where: []poolRef{{"p", "/p"}}}, pool.SHA256: {where: []poolRef{{"p", "/p"}, {"q", "/q"}}},
	}}
	for _, c := range []struct {
		name   string
		chosen []ListedImage
		unused bool
		want   string
		freed  int64
		err    string
	}{
		{name: "one by its name", chosen: []ListedImage{free}, want: "image.unpool:aaaaaaaa image.remove:aaaaaaaa", freed: 3},
		{name: "one only in pools", chosen: []ListedImage{pool}, want: "image.unpool:cccccccc image.unpool:cccccccc", freed: 8},
		{name: "a used one", chosen: []ListedImage{free, used}, err: "used by t"},
		{name: "all unused", chosen: list.Images, unused: true, want: "image.unpool:aaaaaaaa image.remove:aaaaaaaa image.parts", freed: 19},
	} {
		p, freed, err := For(looptest.New(t).Loop).planRemovals(list, c.chosen, c.unused)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		var ids []string
		for _, a := range p.Actions {
			ids = append(ids, a.ID)
		}
		if got := strings.Join(ids, " "); err != nil || got != c.want || freed != c.freed {
			t.Errorf("%s: planned %q, frees %d: %v", c.name, got, freed, err)
		}
	}
}
