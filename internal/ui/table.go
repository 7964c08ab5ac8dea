package ui

import (
	"io"
	"strings"

	"github.com/rivo/uniseg"
	"github.com/rogpeppe/go-internal/diff"
)

// Table writes rows under a header (none if nil), with two spaces between columns. Cells
// are cleaned, and their width is counted in terminal columns, so that wide characters
// keep columns aligned. The last column is not padded.
func Table(w io.Writer, header []string, rows [][]string) {
	all := rows
	if len(header) > 0 {
		all = append([][]string{header}, rows...)
	}
	var widths []int
	cells := make([][]string, len(all))
	for i, row := range all {
		cells[i] = make([]string, len(row))
		for j, c := range row {
			cells[i][j] = Clean(c)
			if j == len(widths) {
				widths = append(widths, 0)
			}
			widths[j] = max(widths[j], uniseg.StringWidth(cells[i][j]))
		}
	}
	var b strings.Builder
	for _, row := range cells {
		var line strings.Builder
		for j, c := range row {
			line.WriteString(c)
			if j < len(row)-1 {
				line.WriteString(strings.Repeat(" ", widths[j]-uniseg.StringWidth(c)+2))
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	_, _ = io.WriteString(w, b.String())
}

// Diff returns the unified diff from a to b, "" if they are equal. The text is not
// cleaned, since it may be written to a file; Say cleans what it prints.
func Diff(oldName, newName string, a, b []byte) string {
	text := string(diff.Diff(oldName, a, newName, b))
	// Drop the first line, "diff OLD NEW".
	_, rest, _ := strings.Cut(text, "\n")
	return rest
}
