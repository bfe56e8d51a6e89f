package telemeter

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
)

func TestRateLimit(t *testing.T) {
	h := newHub(t, nil)
	push := func(body string) (int, string) {
		code, _, answer := h.upload(asText, []byte(body))
		return code, answer.Header.Get("Retry-After")
	}
	const good, bad = `up{_id="cluster-1"} 1` + "\n", `up{_id="cluster-2"} 1` + "\n"
	f := func(name, body string, want int, wantAfter string) {
		t.Helper()
		if code, after := push(body); code != want || after != wantAfter {
			t.Errorf("%s: status %d, Retry-After %q, want %d, %q", name, code, after, want, wantAfter)
		}
	}
	f("a bad one", bad, 403, "")
	f("the first", good, 200, "")
	f("at once", good, 429, "257")
	f("a bad one at once", bad, 429, "257")
	h.clock = h.clock.Add(100 * time.Second)
	f("later", good, 429, "157")
	h.clock = h.clock.Add(160 * time.Second) // clients are early now and then
	f("after ten seconds less than the limit", good, 200, "")
}

func TestTokens(t *testing.T) {
	h := newHub(t, func(c *Config, _ *HubConfig) { c.RateLimit = 0 })
	const good = `up{_id="cluster-1"} 1` + "\n"
	token, other := h.token("cluster-1", "secret-1"), h.token("cluster-1", "secret-1b")
	f := func(name, token string, want int) {
		t.Helper()
		if answer, text := h.do("POST", "/upload", token, asText, []byte(good)); answer.StatusCode != want || (want == 401) != (answer.Header.Get("WWW-Authenticate") != "") {
			t.Errorf("%s: status %d, want %d: %s", name, answer.StatusCode, want, text)
		}
	}
	f("valid", token, 200)
	f("none", "", 401)
	f("the client's own", "secret-1", 401)
	f("changed", token[:len(token)-8]+"AAAAAAAA", 401)
	f("of another client", h.token("cluster/2", "secret-2"), 403)
	unsigned := "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0." + strings.Split(token, ".")[1] + "."
	f("unsigned", unsigned, 401)
	c := h.settings.Load().config
	h.write(c.TokensFile, "cluster-1 secret-1b\n")
	use, err := h.Prepare(c, HubConfig{SiteLabel: "site"})
	if err != nil {
		t.Fatal(err)
	}
	f("before the reload", token, 200)
	use()
	f("of a token that is gone", token, 401)
	f("of one that is still there", other, 200)
	h.clock = h.clock.Add(24*time.Hour + 2*clockSkew)
	f("expired", other, 401)
	other = h.token("cluster-1", "secret-1b")
	if h.key, err = NewKey(); err != nil {
		t.Fatal(err)
	}
	f("of another key", other, 401)
	c.TokensFile = filepath.Join(t.TempDir(), "missing")
	if _, err := h.Prepare(c, HubConfig{}); err == nil {
		t.Error("a file that is not there is taken")
	}
}

func TestSiteOf(t *testing.T) {
	f := func(id, want string) {
		t.Helper()
		if got := SiteOf(id); got != want {
			t.Errorf("%q: got %q, want %q", id, got, want)
		}
	}
	f("cluster-1", "cluster-1")
	f("a5a5cd29-7a5c-4c27-a6a6-8d1a9c5c9d4e", "a5a5cd29-7a5c-4c27-a6a6-8d1a9c5c9d4e")
	f(strings.Repeat("x", 64), strings.Repeat("x", 64))
	f("a/b", "x-yfgn3qbt6zfz32ua5jtvz4uauak6m4srmcikkythqekt3rup5iiq")
	f(strings.Repeat("x", 65), SiteOf(strings.Repeat("x", 65)))
	if a, b := SiteOf("x-1"), SiteOf("x-"+SiteOf("a/b")[2:]); !strings.HasPrefix(a, "x-") || len(a) != 54 || a == "x-1" || b == SiteOf("a/b") {
		t.Errorf("ids that look like hashes: %q, %q", a, b)
	}
}

func TestValidate(t *testing.T) {
	f := func(want string, change func(*Config)) {
		t.Helper()
		c := DefaultConfig()
		c.TokensFile = "tokens"
		change(&c)
		err := c.Validate()
		if want == "" && err != nil || want != "" && (err == nil || !strings.HasPrefix(err.Error(), want)) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	f("", func(*Config) {})
	f("label:", func(c *Config) { c.Label = "__name__" })
	f("tokens_file:", func(c *Config) { c.TokensFile = "" })
	f("authorize_url:", func(c *Config) { c.AuthorizeURL = "https://a/b" })
	f("authorize_url:", func(c *Config) { c.TokensFile, c.AuthorizeURL = "", "file:///x" })
	f("token_ttl:", func(c *Config) { c.TokenTTL = model.Duration(59 * time.Second) })
	f("limit_bytes:", func(c *Config) { c.LimitBytes = 0 })
	f("ttl:", func(c *Config) { c.TTL = 0 })
	f("rate_limit:", func(c *Config) { c.RateLimit = -1 })
	f("path_prefix:", func(c *Config) { c.PathPrefix = "/a/{b}" })
	f("path_prefix:", func(c *Config) { c.PathPrefix = "/a/" })
	f("match[0]:", func(c *Config) { c.Match = []string{"{"} })
	f("listen_address:", func(c *Config) { c.ListenAddress = "x" })
	f("tls_server_config:", func(c *Config) { c.TLSServerConfig.TLSCertPath = "x" })
}
