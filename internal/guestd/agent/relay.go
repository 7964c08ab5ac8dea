package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/guestd/wire"
)

const (
	fuseHeader  = 16
	fuseLargest = 1<<20 + 64<<10 // a message: 1 MiB of data and its headers
	hostLimit   = 10 * time.Second
)

// mountRelay mounts the folder server behind the port aivm.fs at dir: the messages of
// the kernel's FUSE go over the port as they are, each with its own length.
func mountRelay(dir string) error {
	path, err := waitFor(wire.FSPort, findPort)
	if err != nil {
		return fmt.Errorf("the virtio port %s: %w", wire.FSPort, err)
	}
	port, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := waitForHost(port); err != nil {
		unix.Close(port)
		return err
	}
	fuse, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		unix.Close(port)
		return err
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other,max_read=%d", fuse, 1<<20)
	if err := unix.Mount("aivm", dir, "fuse.aivm", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		unix.Close(port)
		unix.Close(fuse)
		return err
	}
	var both sync.WaitGroup
	both.Go(func() {
		if err := toHost(fuse, port); !errors.Is(err, unix.ENODEV) { // unmounted
			logf("folder requests: %v", err)
		}
	})
	both.Go(func() {
		logf("folder answers: %v", fromHost(port, fuse))
		// Nothing will be answered any more: requests fail instead of waiting.
		_ = unix.Unmount(dir, unix.MNT_FORCE|unix.MNT_DETACH)
	})
	go func() {
		both.Wait()
		unix.Close(port)
		unix.Close(fuse)
	}()
	return nil
}

// waitForHost waits until the host has opened its end of a port.
func waitForHost(port int) error {
	for deadline := time.Now().Add(hostLimit); ; time.Sleep(devicePoll) {
		state := []unix.PollFd{{Fd: int32(port), Events: unix.POLLOUT}}
		if _, err := unix.Poll(state, 0); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if state[0].Revents&unix.POLLHUP == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no file server on the host: %w", os.ErrDeadlineExceeded)
		}
	}
}

// toHost copies the kernel's requests to the port.
func toHost(fuse, port int) error {
	message := make([]byte, fuseLargest)
	for {
		n, err := unix.Read(fuse, message)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOENT) { // ENOENT: it was interrupted
			continue
		}
		if err != nil {
			return err
		}
		if err := writeAll(port, message[:n]); err != nil {
			return err
		}
	}
}

// fromHost copies the answers of the host to the kernel.
func fromHost(port, fuse int) error {
	message := make([]byte, fuseLargest)
	have := 0
	for {
		n, err := unix.Read(port, message[have:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil && n == 0 {
			err = errors.New("the file server on the host has ended")
		}
		if err != nil {
			return err
		}
		have += n
		done := 0
		for have-done >= fuseHeader {
			length := int(binary.LittleEndian.Uint32(message[done:]))
			if length < fuseHeader || length > fuseLargest {
				return fmt.Errorf("a message of %d bytes", length)
			}
			if have-done < length {
				break
			}
			// An answer the kernel does not want (to an interrupted request) is dropped.
			if _, err := unix.Write(fuse, message[done:done+length]); errors.Is(err, unix.ENODEV) {
				return err
			}
			done += length
		}
		have = copy(message, message[done:have])
	}
}

func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
