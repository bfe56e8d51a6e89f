package federate_test

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/thalweg/thalweg/internal/federate"
	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/store"
)

func TestContentType(t *testing.T) {
	const (
		text    = "text/plain; version=0.0.4; charset=utf-8; escaping="
		om1     = "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping="
		om0     = "application/openmetrics-text; version=0.0.1; charset=utf-8; escaping="
		proto   = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=%s; escaping="
		protoIn = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding="
	)
	as := func(encoding string) string { return fmt.Sprintf(proto, encoding) }
	prometheus242 := "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
	prometheus315 := "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.7,application/openmetrics-text;version=0.0.1;q=0.6," +
		"text/plain;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.3"
	native315 := protoIn + "delimited;q=0.8," + prometheus315
	real := newHub(t, nil)
	untyped := newHub(t, func(o *federate.Options, _ *store.Config) { o.Config.Types = federate.Untyped })
	f := func(accept, want, wantUntyped string) {
		t.Helper()
		for h, want := range map[*hub]string{real: want, untyped: wantUntyped} {
			if got := h.get("", "Accept", accept).Header().Get("Content-Type"); got != want {
				t.Errorf("Accept %q: got %q, want %q", accept, got, want)
			}
		}
	}
	same := func(accept, want string) { t.Helper(); f(accept, want, want) }
	same("", text+"underscores")
	same("*/*", text+"underscores")
	same("text/plain", text+"underscores")
	same("text/plain;version=1.0.0", text+"underscores")
	same("application/json", text+"underscores")
	same("text/plain;escaping=dots", text+"dots")
	same("text/plain;escaping=values", text+"values")
	same("text/plain;escaping=nonsense", text+"underscores")
	same(protoIn+"delimited", as("delimited")+"underscores")
	same(protoIn+"text", as("text")+"underscores")
	same(protoIn+"compact-text;escaping=dots", as("compact-text")+"dots")
	same("text/plain;version=0.0.4,"+protoIn+"delimited;q=0.5", text+"underscores")
	f(prometheus315, om1+"allow-utf-8", text+"allow-utf-8")
	f(prometheus242, om1+"underscores", text+"underscores")
	f("application/openmetrics-text", om0+"underscores", text+"underscores")
	f("application/openmetrics-text;version=0.0.1,text/plain;q=0.9", om0+"underscores", text+"underscores")
	f("application/openmetrics-text;version=1.0.0;q=0.1,text/plain", text+"underscores", text+"underscores")
	f(native315, as("delimited")+"allow-utf-8", as("delimited")+"underscores")
	f(protoIn+"delimited;escaping=dots,text/plain;escaping=values;q=0.1", as("delimited")+"dots", as("delimited")+"dots")
}

func TestCompression(t *testing.T) {
	h := newHub(t, nil)
	h.put("m", series.Family{}, 1, now)
	want := "# TYPE m untyped\nm{instance=\"\"} 1 6060000\n"
	f := func(coding string, accept ...string) {
		t.Helper()
		var header []string
		for _, a := range accept {
			header = append(header, "Accept-Encoding", a)
		}
		w := h.get("match[]=m", header...)
		if got := w.Header().Get("Content-Encoding"); got != coding {
			t.Errorf("Accept-Encoding %q: got %q, want %q", accept, got, coding)
		}
		if got := decoded(t, w); got != want {
			t.Errorf("Accept-Encoding %q: got %q", accept, got)
		}
		if got := w.Header().Values("Vary"); !slices.Equal(got, []string{"Accept-Encoding", "Accept"}) {
			t.Errorf("Accept-Encoding %q: Vary is %q", accept, got)
		}
	}
	f("")
	f("gzip", "gzip")
	f("zstd", "zstd")
	f("zstd", "zstd,gzip")
	f("gzip", "gzip, deflate, br, zstd")
	f("zstd", "gzip;q=0.5, zstd;q=0.6")
	f("gzip", "zstd;q=0.5, gzip")
	f("gzip", "zstd;q=0, gzip")
	f("gzip", "br", "gzip")
	f("gzip", "GZIP; q=0.5")
	f("gzip", "gzip;q=1, identity;q=0.5")
	f("gzip", "gzip, identity")
	f("gzip", "*")
	f("zstd", "*;q=0.1, zstd")
	f("", "gzip;q=0")
	f("", "gzip;q=0, *")
	f("", "gzip;q=0.5, zstd;q=0.9, identity")
	f("", "gzip;q=x")
	f("", "deflate, br")
	f("", "")
}

// decoded is the body without its content coding.
func decoded(t *testing.T, w *httptest.ResponseRecorder) string {
	t.Helper()
	body := io.Reader(w.Body)
	switch w.Header().Get("Content-Encoding") {
	case "gzip":
		z, err := gzip.NewReader(body)
		if err != nil {
			t.Fatal(err)
		}
		body = z
	case "zstd":
		z, err := zstd.NewReader(body)
		if err != nil {
			t.Fatal(err)
		}
		defer z.Close()
		body = z
	}
	b, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
