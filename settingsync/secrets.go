package settingsync

import (
	"fmt"

	"aivm.dev/aivm/internal/secretscan"
)

// Secret is a line that contains a secret. The secret itself is never printed.
type Secret = secretscan.Secret

// Scan returns the lines of a text that contain a private key, a token of a well-known service or a
// password.
func Scan(text string) []Secret { return secretscan.Text(text) }

// maxNamed bounds the places that are reported of one file; the rest is counted.
const maxNamed = 10

// secretProblems describes why a file with secrets is not sent: a problem for each place, and how many
// there are if not all are named.
func secretProblems(file string, found []Secret) []Problem {
	var out []Problem
	for _, s := range found[:min(len(found), maxNamed)] {
		out = append(out, Problem{Path: file, Line: s.Line, What: s.Kind + " was found, so it is not sent"})
	}
	if len(found) > maxNamed {
		out = append(out, Problem{Path: file, What: fmt.Sprintf("%d places with secrets were found, of which the first %d are named", len(found), maxNamed)})
	}
	if len(out) > 0 {
		out[len(out)-1].Hint = "to send it anyway: --allow-secret " + file
	}
	return out
}

// scanFile returns why a file is not sent because of its content, nil if nothing was found.
func scanFile(it Item) []Problem {
	found, err := secretscan.Scan(it.Host, it.Data)
	if err != nil {
		return []Problem{{Path: it.Host, What: err.Error() + ", so it is not sent", Hint: "to send it anyway: --allow-secret " + it.Host}}
	}
	return secretProblems(it.Host, found)
}
