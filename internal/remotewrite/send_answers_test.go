package remotewrite

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

const v2 = "protobuf_message: io.prometheus.write.v2.Request\nqueue_config: {min_backoff: 1ms, max_backoff: 4ms}"

// TestAnswers goes through what a receiver may answer: whether the request is sent again, and what is lost.
func TestAnswers(t *testing.T) {
	f := func(code int, config string, again bool) {
		t.Helper()
		t.Run(fmt.Sprintf("%d %.12s", code, config), func(t *testing.T) {
			p := newPeer(t, func(n int, r *peerRequest, w http.ResponseWriter) {
				if n < 2 {
					w.WriteHeader(code)
					fmt.Fprint(w, "some words")
					return
				}
				take(r, w)
			})
			o := newOut(t, p.url, config)
			s := o.NewSender(false)
			s.Row("a", o.row("k", sendStart, 1, 2, 3))
			lost := o.flush(s)
			got := p.all()
			if !again {
				expect(t, "requests", len(got), 1)
				expect(t, "lost", fmt.Sprint(lost), "[{0 3 some words}]")
				expect(t, "failed", o.value("thalweg_remote_write_failed_samples_total", "lane", "live", "reason", "refused"), 3)
				return
			}
			expect(t, "requests", len(got), 3)
			expect(t, "lost", len(lost), 0)
			expect(t, "sent", o.value("thalweg_remote_write_samples_total", "lane", "live"), 3)
			expect(t, "retries", o.value("thalweg_remote_write_retries_total", "lane", "live"), 2)
			for i, r := range got {
				if !bytes.Equal(r.body, got[0].body) {
					t.Errorf("attempt %d has another body", i)
				}
				want := ""
				if i > 0 {
					want = strconv.Itoa(i)
				}
				expect(t, "Retry-Attempt", r.header.Get("Retry-Attempt"), want)
			}
		})
	}
	for _, config := range []string{"", v2} {
		for _, code := range []int{500, 501, 502, 503, 504, 599, 429} {
			f(code, config, true)
		}
		for _, code := range []int{400, 401, 403, 404, 405, 409, 413, 418, 422, 451, 499, 600, 999} {
			f(code, config, false)
		}
	}
	f(415, "", false)
	f(429, "queue_config: {min_backoff: 1ms, retry_on_http_429: false}", false)
}

// TestSuccess takes any 2xx for what it is, with or without a body.
func TestSuccess(t *testing.T) {
	for _, config := range []string{"", v2} {
		for _, code := range []int{200, 202, 204, 299} {
			p := newPeer(t, func(_ int, r *peerRequest, w http.ResponseWriter) {
				w.Header().Set("X-Prometheus-Remote-Write-Samples-Written", strconv.Itoa(len(r.samples)))
				w.WriteHeader(code)
				_, _ = fmt.Fprint(w, strings.Repeat("not of interest ", 10_000)) // 204 has none
			})
			o := newOut(t, p.url, config)
			s := o.NewSender(false)
			s.Row("a", o.row("k", sendStart, 1, 2))
			expect(t, "lost", len(o.flush(s)), 0)
			expect(t, "requests", len(p.all()), 1)
			expect(t, "sent", o.value("thalweg_remote_write_samples_total", "lane", "live"), 2)
			expect(t, "newest", o.value("thalweg_remote_write_highest_timestamp_seconds", "lane", "live"), sendStart/1000)
		}
	}
}

func TestHeaders(t *testing.T) {
	p := newPeer(t, nil)
	for _, x := range []struct{ config, contentType, version string }{
		{"headers: {X-Scope-OrgID: team}", "application/x-protobuf", "0.1.0"},
		{"protobuf_message: prometheus.WriteRequest\nheaders: {X-Scope-OrgID: team}", "application/x-protobuf", "0.1.0"},
		{v2 + "\nheaders: {X-Scope-OrgID: team}", "application/x-protobuf;proto=io.prometheus.write.v2.Request", "2.0.0"},
	} {
		o := newOut(t, p.url, x.config)
		s := o.NewSender(false)
		s.Row("a", o.row("k", sendStart, 1))
		o.flush(s)
		all := p.all()
		h := all[len(all)-1].header
		expect(t, "Content-Type", h.Get("Content-Type"), x.contentType)
		expect(t, "version", h.Get("X-Prometheus-Remote-Write-Version"), x.version)
		expect(t, "Content-Encoding", h.Get("Content-Encoding"), "snappy")
		expect(t, "User-Agent", h.Get("User-Agent"), "Thalweg/1")
		expect(t, "X-Scope-OrgID", h.Get("X-Scope-OrgID"), "team")
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	f := func(value string, want time.Duration) {
		t.Helper()
		expect(t, value, parseRetryAfter(value, now), want)
	}
	f("", 0)
	f("0", 0)
	f("7", 7*time.Second)
	f("-7", 0)
	f("soon", 0)
	f("1.5", 0)
	f("99999999999999999999", 0)
	f("4000000000", maxRetryAfter)
	f(now.Add(90*time.Second).UTC().Format(http.TimeFormat), 90*time.Second)
	f(now.Add(-time.Hour).UTC().Format(http.TimeFormat), 0)
	f(now.Add(48*time.Hour).UTC().Format(http.TimeFormat), maxRetryAfter)
}

// TestRetryAfterWaits sees that a receiver that asks for a second gets it, however short the backoff is.
func TestRetryAfterWaits(t *testing.T) {
	var first time.Time
	var waited time.Duration
	p := newPeer(t, func(n int, r *peerRequest, w http.ResponseWriter) {
		if n == 0 {
			first = time.Now()
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		waited = time.Since(first)
		take(r, w)
	})
	o := newOut(t, p.url, "")
	s := o.NewSender(false)
	s.Row("a", o.row("k", sendStart, 1))
	o.flush(s)
	if waited < time.Second {
		t.Errorf("waited %s", waited)
	}
}

// TestLostAnswers has a receiver that takes a request and cannot say so: it gets the same one again.
func TestLostAnswers(t *testing.T) {
	p := newPeer(t, func(n int, r *peerRequest, w http.ResponseWriter) {
		switch n {
		case 0: // the connection is cut
			panic(http.ErrAbortHandler)
		case 1: // in the midst of the head
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				_, err = conn.Write([]byte("HTTP/1.1 20"))
				_ = conn.Close()
			}
			if err != nil {
				t.Error(err)
			}
		case 2: // what comes is not HTTP
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				_, err = conn.Write([]byte("SSH-2.0-OpenSSH_9.9\r\n"))
				_ = conn.Close()
			}
			if err != nil {
				t.Error(err)
			}
		default:
			take(r, w)
		}
	})
	o := newOut(t, p.url, "")
	s := o.NewSender(false)
	s.Row("a", o.row("k", sendStart, 1, 2))
	expect(t, "lost", len(o.flush(s)), 0)
	all := p.all()
	expect(t, "requests", len(all), 4)
	for _, r := range all {
		if !bytes.Equal(r.body, all[0].body) {
			t.Error("another body")
		}
	}
	expect(t, "error", o.Status().Error, nil)
}

// TestSlowAnswers has a receiver that does not answer, and one whose answer has no end.
func TestSlowAnswers(t *testing.T) {
	released := make(chan struct{})
	p := newPeer(t, func(n int, r *peerRequest, w http.ResponseWriter) {
		switch n {
		case 0:
			<-released
		case 1:
			w.WriteHeader(http.StatusInternalServerError)
			_ = http.NewResponseController(w).Flush()
			<-released
		default:
			take(r, w)
		}
	})
	defer close(released)
	o := newOut(t, p.url, "remote_timeout: 100ms\nqueue_config: {min_backoff: 1ms}")
	s := o.NewSender(false)
	s.Row("a", o.row("k", sendStart, 1))
	expect(t, "lost", len(o.flush(s)), 0)
	expect(t, "requests", len(p.all()), 3)
}

// TestNobodyThere has no receiver for a while.
func TestNobodyThere(t *testing.T) {
	p := newPeer(t, nil)
	o := newOut(t, "http://127.0.0.1:1", "")
	s := o.NewSender(false)
	s.Row("a", o.row("k", sendStart, 1))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	failed := make(chan error)
	go func() {
		_, err := s.Flush(ctx, nil)
		failed <- err
	}()
	await(t, "an error", func() bool { return o.Status().Error != nil })
	if got := o.Status().Error.Error(); !strings.Contains(got, "connection refused") {
		t.Error(got)
	}
	expect(t, "pending", o.value("thalweg_remote_write_pending_samples", "lane", "live"), 1)
	// It is somewhere else, says a new configuration: that is tried at once.
	o.apply(o.config(p.url, ""))
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	expect(t, "requests", len(p.all()), 1)
	expect(t, "pending", o.value("thalweg_remote_write_pending_samples", "lane", "live"), 0)
}

// TestStop ends a Flush that would try for ever.
func TestStop(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	p := newPeer(t, func(n int, _ *peerRequest, w http.ResponseWriter) {
		if n == 1 {
			cancel()
		}
		w.WriteHeader(http.StatusBadGateway)
	})
	o := newOut(t, p.url, "")
	s := o.NewSender(false)
	s.Row("a", o.row("k", sendStart, 1))
	done, err := s.Flush(ctx, func(row, _ int, why string) { t.Errorf("row %d is refused: %s", row, why) })
	expect(t, "done", done, false)
	expect(t, "error", err, context.Canceled)
}

// TestRedirects follows 307 and 308 with the whole request, unless it is told not to.
func TestRedirects(t *testing.T) {
	p := newPeer(t, nil)
	from := newPeer(t, func(n int, _ *peerRequest, w http.ResponseWriter) {
		w.Header().Set("Location", p.url)
		w.WriteHeader(307 + n)
	})
	o := newOut(t, from.url, "")
	s := o.NewSender(false)
	for range 2 {
		s.Row("a", o.row("k", sendStart, 1))
		expect(t, "lost", len(o.flush(s)), 0)
	}
	expect(t, "requests", len(p.all()), 2)
	o.apply(o.config(from.url, "follow_redirects: false"))
	s.Row("a", o.row("k", sendStart+1, 1))
	expect(t, "lost", len(o.flush(s)), 1)
	expect(t, "requests", len(p.all()), 2)
}

// await waits until a condition holds.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %s for %s", patience, what)
		}
	}
}
