package image

import (
	"bytes"
	"strconv"
	"strings"
	"sync"

	"aivm.dev/aivm/internal/ui"
)

// watch turns the output of the build's programs into progress, and keeps the lines that explain a
// failure.
type watch struct {
	progress func(string, float64)

	mu     sync.Mutex
	part   []byte // an incomplete line
	doing  string
	at     float64
	moved  int // steps of dpkg so far
	errors []string
	last   []string
}

func newWatch(progress func(string, float64)) *watch { return &watch{progress: progress} }

const (
	keptErrors = 3
	keptLines  = 5
	// dpkg runs between the step that starts mmdebstrap and the next one. It unpacks and configures
	// 236 packages; a newer release of one of them may add or drop a few.
	dpkgFrom, dpkgTo = 0.08, 0.90
	dpkgSteps        = 2 * 236
	lineLimit        = 4096
)

// Write takes the output of the build's programs.
func (w *watch) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.part = append(w.part, b...)
	for {
		i := bytes.IndexAny(w.part, "\r\n")
		if i < 0 {
			break
		}
		w.line(string(w.part[:i]))
		w.part = w.part[i+1:]
	}
	if len(w.part) > lineLimit {
		w.part = w.part[len(w.part)-lineLimit:]
	}
	return len(b), nil
}

// step takes a progress line of build.sh: "0.90 configuring the system".
func (w *watch) step(line string) {
	n, what, _ := strings.Cut(line, " ")
	f, err := strconv.ParseFloat(n, 64)
	if err != nil {
		return
	}
	w.mu.Lock()
	w.at, w.doing = f, what
	w.mu.Unlock()
	w.progress(what, f)
}

func (w *watch) line(l string) {
	l = strings.TrimSpace(l)
	if l == "" {
		return
	}
	if isError(l) && len(w.errors) < keptErrors {
		w.errors = append(w.errors, l)
	}
	w.last = append(w.last, l)
	if len(w.last) > keptLines {
		w.last = w.last[1:]
	}
	word, rest, _ := strings.Cut(l, " ")
	switch {
	case strings.HasPrefix(l, "I: extracting archives"):
		w.show("unpacking the base system", dpkgFrom)
	case word == "Unpacking", word == "Setting" && strings.HasPrefix(rest, "up "):
		w.moved++
		name := strings.TrimPrefix(rest, "up ")
		name, _, _ = strings.Cut(name, " ")
		what := map[string]string{"Unpacking": "unpacking ", "Setting": "setting up "}[word] + ui.CleanTo(name, 60)
		w.show(what, dpkgFrom+(dpkgTo-dpkgFrom)*min(float64(w.moved)/dpkgSteps, 1))
	}
}

// show reports progress. It never goes backwards, although dpkg runs more than once.
func (w *watch) show(what string, f float64) {
	w.at = max(w.at, min(f, dpkgTo))
	w.progress(what, w.at)
}

func isError(l string) bool {
	for _, p := range []string{"E:", "Err:", "dpkg: error", "qemu-img:", "extlinux:", "mke2fs:", "mount:", "sfdisk:"} {
		if strings.HasPrefix(l, p) {
			return true
		}
	}
	return false
}

// failure returns an error that explains why the script ended with err.
func (w *watch) failure(err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	why := w.errors
	if len(why) == 0 {
		why = w.last
	}
	clean := make([]string, len(why))
	for i, l := range why {
		clean[i] = ui.CleanTo(l, 300)
	}
	doing := w.doing
	if doing == "" {
		doing = "starting"
	}
	e := ui.Failed("building the image, while %s: %w: %s", doing, err, strings.Join(clean, "; "))
	for _, l := range why {
		switch {
		case strings.Contains(l, "Err:"), strings.Contains(l, "Failed to fetch"), strings.Contains(l, "apt-get update"):
			return e.Hint(ui.CmdFor("check that the package mirror answers", "sudo apt-get update"))
		case strings.Contains(l, "loop"):
			return e.Hint(ui.CmdFor("load the kernel's loop devices", "sudo modprobe loop"))
		case strings.Contains(l, "No space left"):
			return e.Hint(ui.CmdFor("free up space: the build needs 2 GiB below /var/cache", "df -h /var/cache"))
		}
	}
	return e
}
