package image

import (
	"bufio"
	"bytes"
	"strings"

	"aivm.dev/aivm/internal/ui"
)

// sumOf finds the digest of a file in what sha256sum or sha512sum wrote:
// "HEX  NAME", or "HEX *NAME". A name that stands there twice with two digests
// proves nothing and is refused.
func sumOf(list []byte, name string, digits int) (string, error) {
	found := ""
	sc := bufio.NewScanner(bytes.NewReader(list))
	for sc.Scan() {
		sum, file, ok := strings.Cut(sc.Text(), " ")
		if !ok || len(sum) != digits || !hexSum.MatchString(sum) {
			continue
		}
		if file != "" && (file[0] == ' ' || file[0] == '*') {
			file = file[1:] // the one letter that says text or binary
		}
		if strings.TrimPrefix(file, "./") != name {
			continue
		}
		sum = strings.ToLower(sum)
		if found != "" && found != sum {
			return "", ui.Failed("the list of digests names %s twice, with two digests", ui.Clean(name))
		}
		found = sum
	}
	if err := sc.Err(); err != nil {
		return "", ui.Failed("reading the list of digests: %w", err)
	}
	if found == "" {
		return "", ui.Failed("the list of digests does not name %s", ui.Clean(name))
	}
	return found, nil
}
