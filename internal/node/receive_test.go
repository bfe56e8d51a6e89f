package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/config"
	"github.com/thalweg/thalweg/internal/push"
	"github.com/thalweg/thalweg/internal/remotewrite"
	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/telemetry"
)

// Senders are not let in where nobody asks who they are, and not sent where they cannot log in.
func TestWhereSendersMayWrite(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	tokens, users := file("tokens", "a secret\n"), file("web.yml", "basic_auth_users: {alice: $2y$10$abcdefghijklmnopqrstuuPCQMVoPEDfHEvDpCEWhdzbVgFlZl8ey}\n")
	log, err := telemetry.OpenLog(telemetry.LogOptions{Level: "debug", Output: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	f := func(role, receive, address, webConfig, want string) {
		t.Helper()
		cfg, err := config.Parse([]byte(fmt.Sprintf("site: a\ndata_dir: %q\nnats: {embedded: {listen: '127.0.0.1:0'}}\n%s: {receive: {%s}}\n", t.TempDir(), role, receive)))
		if err != nil {
			t.Fatal(err)
		}
		n, err := New(Options{Config: cfg, Log: log, ListenAddress: address, WebConfigFile: webConfig})
		if err == nil {
			n.close()
		}
		if got := fmt.Sprint(err); want == "" && err != nil || !strings.Contains(got, want) {
			t.Errorf("%s %s at %s: got %s, want %q", role, receive, address, got, want)
		}
	}
	const loopback, everywhere = "127.0.0.1:0", "0.0.0.0:0"
	f("edge", "remote_write: true", loopback, "", "")
	f("edge", "remote_write: true", everywhere, "", "start edge: receive.tokens_file: is empty, and everybody could write who reaches")
	f("edge", "remote_write: true, allow_anonymous: true", everywhere, "", "")
	f("edge", "pushgateway: true", everywhere, users, "")
	f("edge", "pushgateway: true, tokens_file: "+tokens, everywhere, "", "")
	f("hub", "pushgateway: true, tokens_file: "+tokens, loopback, users, "start hub: receive.listen_address: is empty, and senders with a token cannot log in")
	f("hub", "pushgateway: true, listen_address: '127.0.0.1:0', tokens_file: "+tokens, loopback, users, "")
	f("hub", "pushgateway: true, tokens_file: "+tokens+"x", loopback, "", "start hub: read tokens_file")
}

// An edge answers a sender when its rows are in the outbox. It says what its limits refuse, and when to come again.
func TestCommitAtAnEdge(t *testing.T) {
	n := start(t, fmt.Sprintf("site: a\ndata_dir: %q\nnats: {embedded: {listen: '127.0.0.1:0'}}\nedge: {self: false, limits: {samples_per_second: 10, series_per_source: 100}, receive: {remote_write: true}}\n", t.TempDir()))
	rows := func(width, count int) (list []*series.Row) {
		var columns []series.Column
		for i := range width {
			columns = append(columns, series.Synthetic(fmt.Sprintf("m_%d", i), ""))
		}
		schema := n.catalog.Extend(n.catalog.Empty(), columns)
		for i := range count {
			list = append(list, &series.Row{
				Source: &series.Source{Key: fmt.Sprint("write/", width, i), Labels: labels.FromStrings("job", fmt.Sprint(i))}, Schema: schema,
				T: time.Now().UnixMilli(), Values: make([]float64, width),
			})
		}
		return list
	}
	if err := n.edge.commit(t.Context(), "", rows(1, 2)); err != nil {
		t.Fatal(err)
	}
	if n := len(n.edge.store.Sources("a")); n != 2 {
		t.Errorf("%d sources are served, want 2", n)
	}
	err := writeCommit(n.edge.commit)(t.Context(), "", rows(100_000, 1)) // the last one for long
	if e, ok := errors.AsType[*remotewrite.Excess](err); !ok || len(e.Samples) != 100_000-100 || e.Samples[0].Limit != "series_per_source" {
		t.Errorf("a source with too many series: %v", err)
	}
	early, ok := errors.AsType[*remotewrite.Refusal](writeCommit(n.edge.commit)(t.Context(), "", rows(1, 2)))
	if !ok || early.Status != http.StatusServiceUnavailable || early.RetryAfter != time.Minute {
		t.Errorf("beyond the rate: %+v", early)
	}
	pushed, ok := errors.AsType[*push.Refusal](pushCommit(n.edge.commit)(t.Context(), "", rows(1, 1)))
	if !ok || pushed.Status != http.StatusTooManyRequests {
		t.Errorf("a push beyond the rate: %+v", pushed)
	}
}

// A push is refused only if limits leave nothing of it.
func TestPushBeyondLimits(t *testing.T) {
	row := &series.Row{Source: &series.Source{Key: "a"}, Values: make([]float64, 2)}
	f := func(beyond int, want string) {
		t.Helper()
		err := pushCommit(func(context.Context, string, []*series.Row) error {
			return &remotewrite.Excess{Samples: []remotewrite.ExcessSample{{Row: row, Limit: "series"}, {Row: row, Limit: "series", Column: 1}}[:beyond]}
		})(t.Context(), "", []*series.Row{row})
		if got := fmt.Sprint(err); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	f(1, "<nil>")
	f(2, `2 samples are beyond limits, the first one beyond "series"`)
}
