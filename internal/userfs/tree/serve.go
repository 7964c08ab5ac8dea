package tree

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/userfs/fuse"
)

// Serve answers one request. buf has room for the reply, r.ReplySize bytes; the reply is a part of
// it, nil if the request has none.
func (t *Tree) Serve(r *fuse.Request, buf []byte) []byte {
	switch r.Op {
	case fuse.Forget:
		if n, err := r.Forget(); err == nil {
			t.forget(fuse.Forgotten{Node: r.Node, Count: n})
		}
		return nil
	case fuse.BatchForget:
		_ = r.BatchForget(t.forget) // there is no reply in which an error could be reported
		return nil
	case fuse.Interrupt:
		return nil // no request waits for anything but the disk
	}
	p := fuse.NewReply(buf)
	return p.Finish(r.Unique, errno(t.answer(r, p)))
}

// errno returns the number of an error.
func errno(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	if number, ok := errors.AsType[syscall.Errno](err); ok && number > 0 && number < 512 {
		return number
	}
	return syscall.EIO
}

// answer decodes a request and adds the reply to p.
func (t *Tree) answer(r *fuse.Request, p *fuse.Reply) error {
	switch r.Op {
	case fuse.Lookup, fuse.Unlink, fuse.Rmdir, fuse.Mknod, fuse.Mkdir, fuse.Symlink, fuse.Create, fuse.Rename, fuse.Rename2, fuse.Link:
		return t.answerName(r, p)
	case fuse.Open, fuse.Opendir, fuse.Read, fuse.Write, fuse.Readdir, fuse.Readdirplus, fuse.Release, fuse.Releasedir, fuse.Fsync, fuse.Fsyncdir,
		fuse.Fallocate, fuse.Lseek, fuse.CopyFileRange:
		return t.answerFile(r, p)
	case fuse.Init:
		in, err := r.Init()
		if err != nil {
			return err
		}
		return p.Init(in)
	case fuse.Destroy:
		return nil
	case fuse.Getattr:
		return t.getattr(r.Node, p)
	case fuse.Setattr:
		in, err := r.Setattr()
		if err != nil {
			return err
		}
		return t.setattr(r, in, p)
	case fuse.Readlink:
		return t.readlink(r.Node, p)
	case fuse.Statfs:
		return t.statfs(r.Node, p)
	case fuse.Setxattr, fuse.Getxattr, fuse.Listxattr, fuse.Removexattr:
		in, err := r.Xattr()
		if err != nil {
			return err
		}
		return t.xattr(r, in, p)
	}
	return syscall.ENOSYS // ACCESS and FLUSH too: the guest does not send them again
}

// answerName answers the requests that have names.
func (t *Tree) answerName(r *fuse.Request, p *fuse.Reply) error {
	switch r.Op {
	case fuse.Lookup, fuse.Unlink, fuse.Rmdir:
		name, err := r.Name()
		switch {
		case err != nil:
			return err
		case r.Op == fuse.Lookup:
			return t.lookup(r.Node, name, p)
		case r.Op == fuse.Rmdir:
			return t.remove(r.Node, name, unix.AT_REMOVEDIR)
		}
		return t.remove(r.Node, name, 0)
	case fuse.Rename, fuse.Rename2:
		in, err := r.Rename()
		if err != nil {
			return err
		}
		return t.rename(r.Node, in)
	case fuse.Link:
		in, err := r.Link()
		if err != nil {
			return err
		}
		return t.link(r.Node, in, p)
	}
	decode := map[fuse.Opcode]func() (fuse.MakeIn, error){fuse.Mknod: r.Mknod, fuse.Mkdir: r.Mkdir, fuse.Symlink: r.Symlink, fuse.Create: r.Create}[r.Op]
	in, err := decode()
	switch {
	case err != nil:
		return err
	case r.Op == fuse.Create:
		return t.create(r.Node, in, p)
	}
	return t.make(r.Op, r.Node, in, p)
}

// answerFile answers the requests for open files and directories.
func (t *Tree) answerFile(r *fuse.Request, p *fuse.Reply) error {
	switch r.Op {
	case fuse.Open:
		flags, err := r.Open()
		if err != nil {
			return err
		}
		return t.openFile(r.Node, flags, p)
	case fuse.Opendir:
		return t.openDir(r.Node, p)
	case fuse.Read, fuse.Readdir, fuse.Readdirplus:
		in, err := r.Read()
		switch {
		case err != nil:
			return err
		case r.Op == fuse.Read:
			return t.read(in, p)
		}
		return t.readDir(in, r.Op == fuse.Readdirplus, p)
	case fuse.Write:
		in, err := r.Write()
		if err != nil {
			return err
		}
		return t.write(in, p)
	case fuse.Release, fuse.Releasedir, fuse.Fsync, fuse.Fsyncdir:
		h, flags, err := r.Handle()
		switch {
		case err != nil:
			return err
		case r.Op == fuse.Fsync:
			return t.sync(h, flags, unix.S_IFREG)
		case r.Op == fuse.Fsyncdir:
			return t.sync(h, flags, unix.S_IFDIR)
		}
		return t.closeHandle(h)
	}
	return t.answerRange(r, p)
}

// answerRange answers the requests for ranges of open files.
func (t *Tree) answerRange(r *fuse.Request, p *fuse.Reply) error {
	switch r.Op {
	case fuse.Fallocate:
		in, err := r.Fallocate()
		if err != nil {
			return err
		}
		return t.fallocate(in)
	case fuse.Lseek:
		in, err := r.Lseek()
		if err != nil {
			return err
		}
		return t.seek(in, p)
	}
	in, err := r.Copy()
	if err != nil {
		return err
	}
	return t.copyRange(in, p)
}
