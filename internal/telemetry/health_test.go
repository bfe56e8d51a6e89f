package telemetry

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHealth()
		answer := func() (int, string) {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/-/ready", nil))
			return w.Code, w.Body.String()
		}
		if code, _ := answer(); code != http.StatusOK || !h.Ready() {
			t.Errorf("without conditions: %d", code)
		}
		outbox, nats := h.Condition("outbox"), h.Condition("nats edge")
		if h.Condition("outbox") != outbox {
			t.Error("the same name gives another condition")
		}
		outbox.Ready()
		time.Sleep(time.Hour)
		nats.NotReady("connection refused")
		code, body := answer()
		if code != http.StatusServiceUnavailable || body != "waiting for nats edge: connection refused (since 2000-01-01T00:00:00Z)\n" {
			t.Errorf("one of two: %d %q", code, body)
		}
		want := `
			# HELP thalweg_condition_ready Whether the process has what it needs, one series for each thing.
			# TYPE thalweg_condition_ready gauge
			thalweg_condition_ready{condition="nats edge"} 0
			thalweg_condition_ready{condition="outbox"} 1
		`
		if err := testutil.CollectAndCompare(h, strings.NewReader(want)); err != nil {
			t.Error(err)
		}
		nats.Ready()
		if code, _ := answer(); code != http.StatusOK || !h.Ready() {
			t.Errorf("both: %d", code)
		}
		outbox.Degraded("90 % full")
		if code, body := answer(); code != http.StatusOK || body != "Thalweg is ready.\noutbox: 90 % full\n" {
			t.Errorf("one degraded: %d %q", code, body)
		}
		c := h.Conditions()
		if c[0].Name != "outbox" || c[1].Since.Sub(c[0].Since) != time.Hour {
			t.Errorf("conditions are %+v", c)
		}
	})
}
