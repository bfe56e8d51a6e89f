package events

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

func TestConnectionStrings(t *testing.T) {
	f := func(s, want string) {
		t.Helper()
		c, err := parseConnection(s)
		got := fmt.Sprint(err)
		if err == nil {
			got = fmt.Sprintf("%v %s/%s tls:%t%s db:%d %s %s", c.endpoints, c.user, c.password, c.tls, c.tlsHost, c.database, c.timeout, c.connectTimeout)
		}
		if got != want {
			t.Errorf("%q is %s, want %s", s, got, want)
		}
	}
	f("localhost:6379", "[localhost:6379] / tls:false db:0 5s 5s")
	f("a, b:7000", "[a:6379 b:7000] / tls:false db:0 5s 5s")
	f("a,Ssl=True,password=x=y,user=u,sslHost=h", "[a:6380] u/x=y tls:trueh db:0 5s 5s")
	f("a:1,abortConnect=false,defaultDatabase=2,syncTimeout=100,connectTimeout=50,name=n", "[a:1] / tls:false db:2 100ms 50ms")
	f("[::1]:6379,::1", "[[::1]:6379 [::1]:6379] / tls:false db:0 5s 5s")
	f("", "names no HOST:PORT")
	f("a:b", `"a:b" is not HOST:PORT`)
	f("redis://a", "is a URL; write HOST:PORT")
	f("a,serviceName=mymaster", "option servicename of StackExchange.Redis is not there")
	f("a,ssl=maybe", `option ssl: "maybe" is neither true nor false`)
	f("a,syncTimeout=x", `option synctimeout: "x" is no number of milliseconds`)
}

func TestRedisProtocol(t *testing.T) {
	f := func(text string) error {
		a, b := net.Pipe()
		defer a.Close()
		go func() {
			defer b.Close()
			_, _ = io.WriteString(b, text)
		}()
		c := newRedisConn(a, time.Second)
		return c.receivePage(&page{}, 100)
	}
	for _, bad := range []string{"*1\r\n$3\r\nab", "*1\r\n:3\r\n", "+OK\r\n", "*x\r\n", "*1\r\n$3\r\nabcde", "*1\r\n$9999999999\r\n", "\n"} {
		if err := f(bad); err == nil {
			t.Errorf("%q is a page", bad)
		}
	}
	if err := f("-ERR no\r\n"); !isRedisError(err) || err.Error() != "ERR no" {
		t.Errorf("an error is %v", err)
	}
	if err := f("*2\r\n$2\r\nab\r\n$0\r\n\r\n"); err != nil {
		t.Error(err)
	}
	long := "*2\r\n$150\r\n" + strings.Repeat("x", 150) + "\r\n$2\r\nab\r\n"
	a, b := net.Pipe()
	defer a.Close()
	go func() {
		defer b.Close()
		_, _ = io.WriteString(b, long)
	}()
	var p page
	if err := newRedisConn(a, time.Second).receivePage(&p, 100); err != nil || len(p.at(0)) != 101 || string(p.at(1)) != "ab" {
		t.Errorf("%v, %d bytes and %q", err, len(p.at(0)), p.at(1))
	}
	if !errors.Is(f("*1\r\n$2\r\nabcd"), errRESP) {
		t.Error("a string without an end is taken")
	}
}

// An answer that takes longer than the timeout is read as long as more of it comes; one that stands still is not.
func TestRedisSlowAnswer(t *testing.T) {
	f := func(pieces int, end bool) error {
		a, b := net.Pipe()
		defer a.Close()
		go func() {
			defer b.Close()
			_, _ = io.WriteString(b, fmt.Sprintf("*1\r\n$%d\r\n", pieces))
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for range pieces {
				<-tick.C
				_, _ = io.WriteString(b, "x")
			}
			if end {
				_, _ = io.WriteString(b, "\r\n")
			}
			_, _ = b.Read(make([]byte, 1)) // until the other side has had enough
		}()
		return newRedisConn(a, 500*time.Millisecond).receivePage(&page{}, 1000)
	}
	if err := f(40, true); err != nil {
		t.Errorf("an answer that comes slowly: %v", err)
	}
	if err := f(1, false); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("an answer without an end: %v", err)
	}
}
