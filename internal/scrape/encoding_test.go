package scrape

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/common/model"
)

func TestAcceptEncoding(t *testing.T) {
	f := func(address, more, want string) {
		t.Helper()
		cfg := configs(t, jobYAML("node", "x:1", more))[0]
		target, err := newTarget(cfg, model.LabelSet{"__address__": model.LabelValue(address)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		var e encoding
		e.init(target, cfg)
		if got := e.accept(e.near.Load()); got != want {
			t.Errorf("%s, %q: %s, want %s", address, more, got, want)
		}
	}
	const far, label = "zstd, gzip;q=0.9", "  relabel_configs: [{target_label: __scrape_encoding__, replacement: "
	f("127.0.0.1:1", "", "identity")
	f("10.1.2.3:1", "", "identity")
	f("192.168.0.9:1", "", "identity")
	f("[fd00::1]:1", "", "identity")
	f("[fe80::1]:1", "", "identity")
	f("198.51.100.7:1", "", far)
	f("[2001:db8::1]:1", "", far)
	f("example.org:1", "", far)
	f("10.1.2.3:1", "  proxy_url: http://proxy:1", far)
	f("example.org:1", "  enable_compression: false", "identity")
	f("10.1.2.3:1", label+"gzip}]", "gzip")
	f("10.1.2.3:1", label+"zstd}]", "zstd")
	f("example.org:1", label+"identity}]", "identity")
	f("example.org:1", label+"gzip}]\n  enable_compression: false", "gzip")
	f("example.org:1", "  relabel_configs: [{target_label: __unix_socket__, replacement: /s}]", "identity")

	cfg := configs(t, jobYAML("node", "x:1", label+"br}]"))[0]
	_, err := newTarget(cfg, model.LabelSet{"__address__": "h:1"}, nil)
	if want := `label __scrape_encoding__: "br" is none of identity, gzip, zstd`; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

// Where a target with a name is shows when there is a connection.
func TestNameTurnsOutNear(t *testing.T) {
	asked := make(chan string, 2)
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) {
		select {
		case asked <- r.Header.Get("Accept-Encoding"):
		default:
		}
		text(w, "a 1\n")
	})
	u, err := url.Parse("http://" + addr)
	if err != nil {
		t.Fatal(err)
	}
	run(t, jobYAML("node", "localhost:"+u.Port()))
	if first, second := <-asked, <-asked; first != "zstd, gzip;q=0.9" || second != "identity" {
		t.Errorf("asked for %q, then %q", first, second)
	}
}

func TestDecoders(t *testing.T) {
	body := strings.Repeat("a 1\n", 1000)
	compress := map[string]func(string) []byte{
		"":         func(s string) []byte { return []byte(s) },
		"identity": func(s string) []byte { return []byte(s) },
		"gzip": func(s string) []byte {
			var b bytes.Buffer
			z := gzip.NewWriter(&b)
			io.WriteString(z, s)
			z.Close()
			return b.Bytes()
		},
		"zstd": func(s string) []byte {
			z, err := zstd.NewWriter(nil)
			if err != nil {
				t.Fatal(err)
			}
			return z.EncodeAll([]byte(s), nil)
		},
	}
	m := newMemory()
	for name, f := range compress {
		for range 3 { // from the pool
			r, err := m.decoder(name, bytes.NewReader(f(body)))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if got, err := io.ReadAll(r); err != nil || string(got) != body {
				t.Errorf("%s: %d bytes, error %v", name, len(got), err)
			}
			r.Close()
			if name == "gzip" || name == "zstd" {
				cut := f(body)
				r, err := m.decoder(name, bytes.NewReader(cut[:len(cut)-5]))
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if _, err := io.ReadAll(r); err == nil {
					t.Errorf("%s: a truncated body is no error", name)
				}
				r.Close()
			}
		}
	}
	if _, err := m.decoder("br", strings.NewReader("")); err == nil || err.Error() != `unknown content encoding "br"` {
		t.Errorf("error %v", err)
	}
}
