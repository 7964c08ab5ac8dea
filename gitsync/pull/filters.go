package pull

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"aivm.dev/aivm/gitsync/compare"
	"aivm.dev/aivm/gitsync/hostgit"
	"aivm.dev/aivm/gitsync/transfer"
)

// Filters lists the filters that the user's own git would start to check out the changes: the
// commit's .gitattributes selects among the filters configured on the host.
func Filters(ctx context.Context, h compare.Host, to string, cs []Change) ([]hostgit.Filter, error) {
	var names []string
	for _, c := range cs {
		if c.What != "D" && strings.HasPrefix(c.Mode, "100") {
			names = append(names, c.Path)
		}
	}
	return h.Repo.Filters(ctx, to, names, transfer.DefaultLimits.Memory)
}

// ConsentToken returns a digest of what a pull changes and would run. A user who repeats it has
// seen exactly that list.
func ConsentToken(from, to string, hazards []string, fs []hostgit.Filter) string {
	sum := sha256.New()
	fmt.Fprintf(sum, "%q %q %q\n", from, to, hazards)
	for _, f := range fs {
		fmt.Fprintf(sum, "%q %q %q\n", f.Name, f.From, f.Files)
		for _, k := range slices.Sorted(maps.Keys(f.Values)) {
			fmt.Fprintf(sum, "%q %q\n", k, f.Values[k])
		}
	}
	return hex.EncodeToString(sum.Sum(nil))[:16]
}
