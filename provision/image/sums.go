package image

import (
	"bufio"
	"bytes"
	"strings"

	"aivm.dev/aivm/internal/ui"
)

// sumOf finds the digest of a file in the output of sha256sum or sha512sum: "HEX  NAME", or "HEX
// *NAME". A name with two different digests proves nothing and is refused.
func sumOf(list []byte, name string, digits int) (string, error) {
	found := ""
	sc := bufio.NewScanner(bytes.NewReader(list))
	for sc.Scan() {
		sum, file, ok := strings.Cut(sc.Text(), " ")
		if !ok || len(sum) != digits || !hexSum.MatchString(sum) {
			continue
		}
		if file != "" && (file[0] == ' ' || file[0] == '*') {
			file = file[1:] // the mode of sha256sum: ' ' for text, '*' for binary
		}
		if strings.TrimPrefix(file, "./") != name {
			continue
		}
		sum = strings.ToLower(sum)
		if found != "" && found != sum {
			return "", ui.Failed("the list of digests has two different digests of %s", ui.Clean(name))
		}
		found = sum
	}
	if err := sc.Err(); err != nil {
		return "", ui.Failed("reading the list of digests: %w", err)
	}
	if found == "" {
		return "", ui.Failed("the list of digests has no %s", ui.Clean(name))
	}
	return found, nil
}
