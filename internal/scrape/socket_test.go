package scrape

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// pair returns the two ends of a connection.
func pair(t *testing.T, network, address string) (under, theirs net.Conn) {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial(network, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if theirs, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); theirs.Close() })
	return conn, theirs
}

func TestSocket(t *testing.T) {
	for network, address := range map[string]string{"tcp": "127.0.0.1:0", "unix": filepath.Join(t.TempDir(), "s")} {
		t.Run(network, func(t *testing.T) {
			under, theirs := pair(t, network, address)
			ours := direct(under)
			sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<19) // more than any buffer holds
			var echo sync.WaitGroup
			echo.Go(func() {
				io.Copy(theirs, theirs)
				theirs.Close()
			})
			var writer sync.WaitGroup
			writer.Go(func() {
				if n, err := ours.Write(sent); n != len(sent) || err != nil {
					t.Errorf("wrote %d of %d bytes, %v", n, len(sent), err)
				}
			})
			got := make([]byte, len(sent))
			if n, err := io.ReadFull(ours, got); err != nil || !bytes.Equal(got, sent) {
				t.Errorf("read %d bytes, %v, not what was sent", n, err)
			}
			writer.Wait()
			if n, err := ours.Read(nil); n != 0 || err != nil {
				t.Errorf("read nothing: %d, %v", n, err)
			}
			if err := ours.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			if _, err := ours.Read(got); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("read of nothing: %v, want the deadline", err)
			}
			if err := ours.SetReadDeadline(time.Time{}); err != nil {
				t.Fatal(err)
			}
			if err := under.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if n, err := ours.Read(got); n != 0 || err != io.EOF {
				t.Errorf("read behind the end: %d, %v", n, err)
			}
			echo.Wait()
		})
	}
}

// Errors are as those of package net.
func TestSocketErrors(t *testing.T) {
	under, theirs := pair(t, "tcp", "127.0.0.1:0")
	ours := direct(under)
	if err := theirs.(*net.TCPConn).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	theirs.Close() // with a reset
	_, err := ours.Read(make([]byte, 1))
	if op := (*net.OpError)(nil); !errors.As(err, &op) || op.Op != "read" || op.Addr == nil || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read: %v", err)
	}
	_, err = ours.Write([]byte("x"))
	if op := (*net.OpError)(nil); !errors.As(err, &op) || op.Op != "write" || !errors.Is(err, syscall.EPIPE) {
		t.Errorf("write: %v", err)
	}
	ours.Close()
	if _, err := ours.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read of a closed connection: %v", err)
	}
}

func TestSocketAllocatesNothing(t *testing.T) {
	under, theirs := pair(t, "tcp", "127.0.0.1:0")
	ours := direct(under)
	b := make([]byte, 64)
	n := testing.AllocsPerRun(100, func() {
		if _, err := ours.Write(b); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(theirs, b); err != nil {
			t.Fatal(err)
		}
		if _, err := theirs.Write(b); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(ours, b); err != nil {
			t.Fatal(err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}
