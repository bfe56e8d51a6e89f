package natsd

import (
	"log/slog"
	"strings"
	"testing"
)

// TestClientLines: whatever a client does, it is a warning, and one line for each host and kind.
func TestClientLines(t *testing.T) {
	log := &strings.Builder{}
	l := newLogger(slog.New(slog.NewTextHandler(log, nil)).With("component", "nats"))
	for _, line := range []string{
		`10.0.0.1:1000 - cid:1 - TLS handshake error: remote error: tls: bad certificate`,
		`10.0.0.1:1001 - cid:2 - TLS handshake error: EOF`,
		`10.0.0.2:1000 - wid:3 - TLS handshake error: EOF`,
		`[fe80::1]:1000 - cid:4 - "v1.52.0:go:a - b" - "SITES/a/anonymous" - Publish Violation - Subject "x"`,
		`[fe80::1]:1001 - cid:5 - "v1.52.0:go:c - d" - "SITES/a/anonymous" - Publish Violation - Subject "y"`,
		`[fe80::1]:1001 - cid:5 - "v1.52.0:go:c - d" - "SITES/a/anonymous" - Subscription Violation - Subject "y", SID 1`,
		`[fe80::1]:1001 - cid:5 - "v1.52.0:go:c - d" - "SITES/a/anonymous" - Subscription Violation - Subject "z", SID 2`,
		`pipe - cid:6 - maximum payload exceeded: 2 vs 1`,
		`pipe - cid:6 - maximum payload exceeded: 3 vs 1`,
	} {
		l.Errorf("%s", line)
	}
	if got := strings.Count(log.String(), "level=WARN"); got != 5 || strings.Contains(log.String(), "level=ERROR") {
		t.Errorf("%d warnings, want 5, and no error:\n%s", got, log)
	}

	// The server's own trouble, and that with the other servers of a cluster, is an error each time.
	log.Reset()
	for range 2 {
		l.Errorf("JetStream out of resources: %s", "no space left on device")
		l.Errorf("%s", `10.0.0.1:1000 - rid:7 - Route Error 'Authorization Violation'`)
	}
	if got := strings.Count(log.String(), "level=ERROR"); got != 2+2 {
		t.Errorf("%d errors, want 4:\n%s", got, log)
	}
	if got := strings.Count(log.String(), "component="); got != 4 {
		t.Errorf("%d times key component in 4 lines:\n%s", got, log)
	}
}
