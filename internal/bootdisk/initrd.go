package bootdisk

import (
	"fmt"
	"io"
	"strings"
)

// cpio writes an archive in the "newc" format, which the kernel unpacks as its first
// root. It is not compressed: unpacking would take longer than reading.
type cpio struct {
	w     io.Writer
	inode int
	n     int64
	err   error
}

func (c *cpio) write(b []byte) {
	if c.err == nil {
		var n int
		n, c.err = c.w.Write(b)
		c.n += int64(n)
	}
}

func (c *cpio) pad() { c.write(make([]byte, (4-c.n%4)%4)) }

// entry writes one file. Time and owner are 0, so that the same content gives the
// same archive.
func (c *cpio) entry(name string, mode, major, minor int, content []byte) {
	c.inode++
	c.write(fmt.Appendf(nil, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		c.inode, mode, 0, 0, 1, 0, len(content), 0, 0, major, minor, len(name)+1, 0, name))
	c.pad()
	c.write(content)
	c.pad()
}

func (c *cpio) dir(name string) { c.entry(name, 0o040755, 0, 0, nil) }

// module is a kernel module in the initrd.
type module struct {
	name    string // without ".ko"
	content []byte
}

// writeInitrd writes the first root of a VM: the agent as /init, and the modules that
// it loads in the order of /modules.list, one path a line.
func writeInitrd(w io.Writer, agent []byte, modules []module) error {
	c := &cpio{w: w}
	for _, d := range []string{"dev", "proc", "sys", "modules", "root"} {
		c.dir(d)
	}
	c.entry("dev/console", 0o020600, 5, 1, nil)
	c.entry("init", 0o100755, 0, 0, agent)
	var list strings.Builder
	for _, m := range modules {
		path := "modules/" + m.name + ".ko"
		c.entry(path, 0o100644, 0, 0, m.content)
		list.WriteString("/" + path + "\n")
	}
	c.entry("modules.list", 0o100644, 0, 0, []byte(list.String()))
	c.entry("TRAILER!!!", 0, 0, 0, nil)
	return c.err
}

// ReplaceAgent appends another agent to the initrd in f, which is written from its
// end: the kernel unpacks one archive after the other, and the last one's files win.
func ReplaceAgent(f io.WriteSeeker, agent []byte) error {
	n, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	c := &cpio{w: f, n: n}
	c.pad()
	c.entry("init", 0o100755, 0, 0, agent)
	c.entry("TRAILER!!!", 0, 0, 0, nil)
	return c.err
}
