package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"
)

func TestCategorize(t *testing.T) {
	seen := map[Category]bool{}
	f := func(err error, want Category) {
		t.Helper()
		seen[want] = true
		if got := Categorize(fmt.Errorf("scrape: %w", err)); got != want {
			t.Errorf("%v is %s, want %s", err, got, want)
		}
	}
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	f(context.Cause(canceled), Canceled)
	f(context.DeadlineExceeded, Timeout)
	f(os.ErrDeadlineExceeded, Timeout)
	f(&net.DNSError{Err: "no such host", Name: "x.invalid"}, DNS)
	f(&net.DNSError{Err: "i/o timeout", IsTimeout: true}, DNS)
	f(&net.OpError{Op: "dial", Err: syscall.EHOSTUNREACH}, Unreachable)
	f(&os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}, DiskFull)
	f(io.ErrUnexpectedEOF, Disconnected)
	f(syscall.ECONNRESET, Disconnected)
	f(os.ErrPermission, Permission)
	f(errors.New("x"), Other)
	_, err := os.Open(filepath.Join(t.TempDir(), "none"))
	f(err, NotFound)

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = net.DialTimeout("tcp", l.Addr().String(), time.Minute)
	f(err, Refused)

	encrypted := httptest.NewTLSServer(http.NotFoundHandler())
	defer encrypted.Close()
	_, err = http.Get(encrypted.URL) // does not know the server's authority
	f(err, TLS)

	for _, c := range Categories() {
		if !seen[c] {
			t.Errorf("nothing is %s", c)
		}
	}
	if len(seen) != len(slices.Compact(slices.Sorted(slices.Values(Categories())))) {
		t.Errorf("%d categories seen, %v listed", len(seen), Categories())
	}
}
