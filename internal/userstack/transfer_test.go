package userstack

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// usage returns the CPU seconds and the peak resident megabytes of the network process.
func (s *Stack) usage(t *testing.T) (cpu, rss float64) {
	t.Helper()
	dir := filepath.Join("/proc", strconv.Itoa(s.process.Pid))
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if v, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, _ := strconv.ParseFloat(strings.Fields(v)[0], 64)
			rss = kb / 1024
		}
	}
	return (user + system) / 100, rss
}

// TestTransfers moves data through the network process and prints what it cost: the bars
// for 2 GiB in one flow are 30 MB of memory, for 200 flows 100 MB.
func TestTransfers(t *testing.T) {
	origin := newLab(t)
	size := int64(64 << 20)
	if testing.Short() {
		size = 16 << 20
	}
	if os.Getenv("AIVM_TEST_LONG") != "" {
		size = 2 << 30
	}
	origin.listen(t, labPublic+":80", func(c net.Conn) { // what it gets is counted, then size bytes are sent
		defer c.Close()
		n, _ := io.Copy(io.Discard, c)
		fmt.Fprintf(c, "%16d", n)
	})
	origin.listen(t, labPublic+":81", func(c net.Conn) {
		defer c.Close()
		_, _ = io.Copy(c, io.LimitReader(zeros{}, size))
	})
	origin.listen(t, labPublic+":82", func(c net.Conn) {
		defer c.Close()
		_, _ = io.Copy(c, io.LimitReader(zeros{}, size/200))
	})
	plain := plainCopy(t, labPublic+":81")
	t.Logf("the cheapest copy from a TCP to a Unix socket: %.2f CPU s/GB", plain)
	report := func(t *testing.T, s *Stack, bytes int64, began time.Time, bar float64) {
		took := time.Since(began)
		cpu, rss := s.usage(t)
		gb := float64(bytes) / 1e9
		t.Logf("%.2f GB: %.0f MB/s, %.2f CPU s/GB (%.1f x the cheapest copy), peak RSS %.0f MB", gb, gb*1000/took.Seconds(), cpu/gb, cpu/gb/plain, rss)
		if rss > bar {
			t.Errorf("peak RSS %.0f MB, more than %.0f", rss, bar)
		}
	}
	t.Run("download", func(t *testing.T) {
		g, s := start(t)
		began := time.Now()
		n, err := io.Copy(io.Discard, plainReader{g.mustDial(labPublic + ":81")})
		if n != size || err != nil {
			t.Fatalf("%d bytes, %v", n, err)
		}
		report(t, s, n, began, rssOneFlow)
	})
	t.Run("upload", func(t *testing.T) {
		g, s := start(t)
		began := time.Now()
		c := g.mustDial(labPublic + ":80")
		if _, err := io.Copy(c, io.LimitReader(zeros{}, size)); err != nil {
			t.Fatal(err)
		}
		_ = c.CloseWrite()
		got, err := io.ReadAll(c)
		if strings.TrimSpace(string(got)) != fmt.Sprint(size) {
			t.Fatalf("the server got %s of %d bytes, %v", got, size, err)
		}
		report(t, s, size, began, rssOneFlow)
	})
	t.Run("200 flows", func(t *testing.T) {
		g, s := start(t)
		began := time.Now()
		total := make(chan int64)
		for range 200 {
			go func() {
				c, err := g.dial(labPublic+":82", 60*time.Second)
				if err != nil {
					t.Error(err)
					total <- 0
					return
				}
				n, err := io.Copy(io.Discard, plainReader{c})
				if n != size/200 || err != nil {
					t.Errorf("%d bytes, %v", n, err)
				}
				total <- n
			}()
		}
		var sum int64
		for range 200 {
			sum += <-total
		}
		report(t, s, sum, began, rssManyFlows)
	})
	t.Run("200 flows that nobody reads", func(t *testing.T) {
		g, s := start(t)
		for range 200 {
			g.mustDial(labPublic + ":81")
		}
		time.Sleep(2 * time.Second)
		_, rss := s.usage(t)
		t.Logf("peak RSS %.0f MB", rss)
		if rss > rssManyFlows {
			t.Errorf("peak RSS %.0f MB, more than %d", rss, rssManyFlows)
		}
	})
}

// plainCopy copies what the server sends into a Unix socket, with blocking calls of one
// thread, and returns the CPU seconds for 1 GB: no process in the middle does better.
func plainCopy(t *testing.T, from string) float64 {
	t.Helper()
	c, err := net.Dial("tcp4", from)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	in, err := c.(*net.TCPConn).File() // blocking
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, sink := socketPair(t)
	defer sink.Close()
	go func() { _, _ = io.Copy(io.Discard, plainReader{sink}) }()
	used := make(chan float64)
	go func() {
		runtime.LockOSThread()
		defer out.Close()
		buf, total := make([]byte, framesBuffer), 0
		_ = unix.SetNonblock(int(in.Fd()), false)
		for {
			n, err := unix.Read(int(in.Fd()), buf)
			if n <= 0 || err != nil {
				break
			}
			total += n
			for rest := buf[:n]; len(rest) > 0; {
				n, err := unix.Write(int(out.Fd()), rest)
				if err != nil {
					used <- 0
					return
				}
				rest = rest[n:]
			}
		}
		var r unix.Rusage
		_ = unix.Getrusage(unix.RUSAGE_THREAD, &r)
		used <- (float64(r.Utime.Nano()+r.Stime.Nano()) / 1e9) / (float64(total) / 1e9)
	}()
	return <-used
}

const (
	rssOneFlow   = 30
	rssManyFlows = 100
)

// plainReader hides a connection's other methods from io.Copy.
type plainReader struct{ io.Reader }

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
