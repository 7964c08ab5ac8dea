package target

import (
	"fmt"
	"os"
	"strings"
	"unicode/utf8"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/internal/ui"
)

// checkUTF8 refuses a path that is not valid UTF-8: neither the config (TOML) nor the records for
// the privileged helper (JSON) nor libvirt's definitions (XML) can contain it. The hint renames the
// first directory of the path whose name is not valid.
func checkUTF8(path string) error {
	if utf8.ValidString(path) {
		return nil
	}
	err := ui.Refused("the path %s is not valid UTF-8, so neither the config nor libvirt's definitions can name it", ui.Clean(path))
	dir := ""
	for name := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
		if utf8.ValidString(name) {
			dir += "/" + name
			continue
		}
		if _, lerr := os.Lstat(dir + "/" + name); lerr == nil {
			to := dir + "/" + strings.Map(printable, latin1(name))
			err.Hint(ui.CmdFor("to rename it", "mv -nT "+printfQuote(dir+"/"+name)+" "+shellescape.Quote(to)))
		}
		break
	}
	return err
}

// latin1 returns a name with each byte that is not part of a character as the character that it
// is in ISO 8859-1, the most probable encoding of an old name.
func latin1(name string) string {
	var b strings.Builder
	for len(name) > 0 {
		r, size := utf8.DecodeRuneInString(name)
		if r == utf8.RuneError && size == 1 {
			r = rune(name[0])
		}
		b.WriteRune(r)
		name = name[size:]
	}
	return b.String()
}

// printable replaces characters that a terminal does not show, so that a hint can be pasted.
func printable(r rune) rune {
	if ui.Clean(string(r)) != string(r) {
		return '_'
	}
	return r
}

// printfQuote returns a shell word for any path without line breaks: the shell's printf makes the
// bytes that are not printable ASCII.
func printfQuote(path string) string {
	var b strings.Builder
	for _, c := range []byte(path) {
		switch {
		case c == '%':
			b.WriteString("%%")
		case c < ' ' || c >= 0x7f || c == '\'' || c == '\\':
			fmt.Fprintf(&b, `\%03o`, c)
		default:
			b.WriteByte(c)
		}
	}
	return `"$(printf '` + b.String() + `')"`
}
