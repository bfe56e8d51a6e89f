package node

import (
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

// An edge answers a sender when its rows are in the outbox, and tells it to come again if its limits leave nothing of them.
func TestCommitAtAnEdge(t *testing.T) {
	n := start(t, fmt.Sprintf("site: a\ndata_dir: %q\nnats: {embedded: {listen: '127.0.0.1:0'}}\nedge: {self: false, limits: {samples_per_second: 10}, receive: {remote_write: true}}\n", t.TempDir()))
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
	if err := n.edge.commit(t.Context(), "", rows(100_000, 1)); err != nil { // the last one for long
		t.Fatal(err)
	}
	err := n.edge.commit(t.Context(), "", rows(1, 2))
	if r, ok := errors.AsType[*refusal](err); !ok || r.status != http.StatusTooManyRequests || r.wait <= 0 {
		t.Errorf("beyond the limit: %v", err)
	}
}
