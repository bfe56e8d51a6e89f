package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/units"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/edge"
	"github.com/thalweg/thalweg/internal/hub"
	"github.com/thalweg/thalweg/internal/natsd"
	"github.com/thalweg/thalweg/internal/natsmon"
	"github.com/thalweg/thalweg/internal/outbox"
)

func load(t *testing.T, file string) *Config {
	t.Helper()
	c, err := Load(file, "")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func parse(t *testing.T, s string) *Config {
	t.Helper()
	c, err := Parse([]byte(s))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func equal[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

func TestDefaultsAreTheContracts(t *testing.T) {
	full, minimal := load(t, "testdata/contract.yml"), load(t, "testdata/minimal.yml")
	equal(t, "keys that differ from the contract", NeedsRestart(full, minimal), []string(nil))
	equal(t, "lookback", full.Hub.Store.Lookback, minimal.Hub.Store.Lookback)
	equal(t, "limits", full.Hub.Limits, minimal.Hub.Limits)
	equal(t, "limits of the edge", full.Edge.Limits, minimal.Edge.Limits)
	equal(t, "anonymize", full.Edge.Pipeline.Anonymize.Mode, minimal.Edge.Pipeline.Anonymize.Mode)
	equal(t, "length of pseudonyms", full.Edge.Pipeline.Anonymize.Length, minimal.Edge.Pipeline.Anonymize.Length)
	equal(t, "federate", full.Hub.Federate, minimal.Hub.Federate)
	equal(t, "interval", minimal.Global.ScrapeInterval, full.Global.ScrapeInterval)
	equal(t, "timeout", minimal.Global.ScrapeTimeout, full.Global.ScrapeTimeout)
	equal(t, "align", minimal.Edge.Scrape.Align, true)
	equal(t, "hub name", minimal.Hub.Name, "ams-1")
	equal(t, "data directory", minimal.DataDir, "testdata/data")
}

func TestEdgeFile(t *testing.T) {
	t.Setenv("REGION", "eu")
	c := load(t, "testdata/edge.yml")
	equal(t, "data directory", c.DataDir, "testdata/state")
	equal(t, "external labels", c.Global.ExternalLabels, labels.FromStrings("region", "eu", "zone", "a$b"))
	equal(t, "timeout", c.Global.ScrapeTimeout, model.Duration(5*time.Second))
	equal(t, "embedded", c.Embedded(), (*natsd.Config)(nil))
	equal(t, "servers", len(c.EdgeClient().URLs), 2)
	equal(t, "token file", c.EdgeClient().TokenFile, "testdata/token")
	equal(t, "CA file", c.EdgeClient().TLSConfig.CAFile, "testdata/tls/ca.pem")
	equal(t, "match", c.Edge.Pipeline.Match, []string{"up", "node_load1", `{__name__=~"go_.*"}`})
	equal(t, "empty outbox section", c.Edge.Outbox, outbox.DefaultConfig())
	jobs := c.Edge.Scrape.Jobs
	equal(t, "job", jobs[0].JobName, "node")
	equal(t, "merged job", jobs[1].JobName, "again")
	equal(t, "merged interval", jobs[1].ScrapeInterval, model.Duration(30*time.Second))
	equal(t, "merged timeout", jobs[1].ScrapeTimeout, c.Global.ScrapeTimeout)
	equal(t, "credentials", jobs[0].HTTPClientConfig.Authorization.CredentialsFile, "testdata/bearer")
	equal(t, "interval", jobs[2].ScrapeInterval, model.Duration(5*time.Second))
	equal(t, "body limit", jobs[2].BodySizeLimit, units.MiB)
	equal(t, "discoveries", len(jobs[0].ServiceDiscoveryConfigs), 2)
}

func TestHubFile(t *testing.T) {
	c := load(t, "testdata/hub.yml")
	equal(t, "listener", c.Embedded().Listen, ":4222")
	equal(t, "tokens", c.Embedded().Auth.TokensFile, "testdata/tokens")
	equal(t, "stream", c.NATS.Client.Stream.MaxAge, model.Duration(2*time.Hour))
	equal(t, "stream name", c.NATS.Client.Stream.Name, "THALWEG")
	equal(t, "parts", c.Hub.Parts.String(), "0-31,40")
	want := hub.DefaultLimits()
	want.Series, want.AllowUnlimited, want.Labels, want.BytesPerSecond = 5000, true, 30, 64*units.KiB
	equal(t, "limits of fra", c.Hub.SiteLimits("fra"), want)
	equal(t, "limits of others", c.Hub.SiteLimits("x").Series, 0)
	equal(t, "fra is expected", c.Hub.Sites["fra"].Expected, true)
	equal(t, "ship is expected", c.Hub.Sites["ship"].Expected, false)
}

func TestFederatedJobsTrackStaleness(t *testing.T) {
	f := func(job string, want bool) {
		t.Helper()
		c := parse(t, "{site: a, edge: {scrape_configs: [{job_name: x, "+job+"}]}}")
		equal(t, job, c.Edge.Scrape.Jobs[0].TrackTimestampsStaleness, want)
	}
	f("metrics_path: /metrics", false)
	f("metrics_path: /federate", true)
	f("metrics_path: /prometheus/federate", true)
	f("metrics_path: /federate, track_timestamps_staleness: false", false)
}

func TestWhichNATS(t *testing.T) {
	regional := load(t, "testdata/regional.yml")
	equal(t, "hub", regional.HubClient().URLs, []string{"nats://localhost:4222"})
	equal(t, "edge", regional.EdgeClient().URLs, []string{"nats://central:4222"})
	equal(t, "file of edge", regional.EdgeClient().TokenFile, "/run/token")
	equal(t, "embedded", regional.Embedded(), (*natsd.Config)(nil))

	alone := parse(t, "{site: a, edge: {}}")
	embedded := natsd.DefaultConfig()
	equal(t, "embedded by default", alone.Embedded(), &embedded)
	equal(t, "client by default", alone.EdgeClient(), bus.DefaultConfig())

	elsewhere := parse(t, `{site: a, edge: {nats: {urls: ["nats://b:1"]}}}`)
	equal(t, "embedded that nobody would use", elsewhere.Embedded(), (*natsd.Config)(nil))

	settings := parse(t, "{site: a, hub: {nats: {}}, nats: {stream: {name: S}}}")
	equal(t, "overrides that say nothing", settings.Hub.NATS, (*bus.Config)(nil))
	equal(t, "embedded when only the stream is set", settings.Embedded(), &embedded)
	equal(t, "stream", settings.HubClient().Stream.Name, "S")
}

// The exporter reads the server in its process, if there is one, and needs none.
func TestNATSExporter(t *testing.T) {
	f := func(yaml string, embedded, server bool) {
		t.Helper()
		c := parse(t, yaml)
		equal(t, yaml+": nats_exporter.embedded", c.NATSExporter.Embedded, embedded)
		equal(t, yaml+": runs a server", c.Embedded() != nil, server)
	}
	f("{site: a, nats_exporter: {}, edge: {}}", true, true)
	f("{site: a, nats_exporter: {}, nats: {embedded: {}}}", true, true)
	f("{site: a, nats_exporter: {embedded: false, servers: [{url: 'http://b'}]}, hub: {}}", false, true)
	f("{site: a, nats_exporter: {servers: [{url: 'http://b'}]}}", false, false)
	f("{site: a, nats_exporter: {system: [{urls: ['nats://b']}]}, edge: {nats: {urls: ['nats://c']}}}", false, false)

	dir := t.TempDir()
	file := filepath.Join(dir, "c.yml")
	text := "nats_exporter: {servers: [{url: 'https://b', basic_auth: {username: u, password_file: p}, tls_config: {ca_file: ca}}], system: [{urls: ['nats://b'], credentials_file: s}]}"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := LoadNATSExporter(file, func(e *natsmon.Config) { e.ListenAddress = ":1" })
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "listener", c.NATSExporter.ListenAddress, ":1")
	equal(t, "files", c.Files(), []NamedFile{
		{"nats_exporter.servers[0].basic_auth.password_file", filepath.Join(dir, "p")},
		{"nats_exporter.servers[0].tls_config.ca_file", filepath.Join(dir, "ca")},
		{"nats_exporter.system[0].credentials_file", filepath.Join(dir, "s")},
	})
	if err := os.WriteFile(file, []byte("edge: {}"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = LoadNATSExporter(file, func(*natsmon.Config) {})
	if err == nil || !strings.HasSuffix(err.Error(), "the section nats_exporter is not there; write nats_exporter: {} to turn it on") {
		t.Error(err)
	}
	none := func(*natsmon.Config) {}
	if _, err = LoadNATSExporter("", none); err == nil || !strings.Contains(err.Error(), "nothing to read") {
		t.Error(err)
	}
}

func TestSiteDefault(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	want, _, _ := strings.Cut(host, ".")
	c := DefaultConfig()
	equal(t, "site", c.Site, want)
	c.Site, c.Edge = "a.b", &Edge{}
	if err := c.Validate(); err == nil || !strings.Contains(err.Error(), `taken from the host name because site is not set: site name "a.b"`) {
		t.Errorf("error is %v", err)
	}
}

func TestNeedsRestart(t *testing.T) {
	f := func(from, to string, want ...string) {
		t.Helper()
		equal(t, from+" -> "+to, NeedsRestart(parse(t, from), parse(t, to)), want)
	}
	f("{site: a, edge: {}}", "{site: a, edge: {}}")
	f("{site: a, edge: {}}", "{site: a, edge: {nats: {}}, nats: {urls: [], embedded: {}}}")
	f("{site: a, edge: {}}", "{site: b, edge: {}}", "site")
	f("{site: a, edge: {}}", "{site: a, edge: {}, hub: {}}", "hub")
	f("{site: a, edge: {}}", "{site: a, edge: {match: [up], scrape_configs: [{job_name: x}]}, global: {scrape_interval: 1m}}")
	f("{site: a, edge: {}}", "{site: a, data_dir: /x, edge: {flush_interval: 2s, align: false, outbox: {max_age: 1d}}}",
		"data_dir", "edge.align", "edge.outbox.max_age")
	f("{site: a, hub: {}}", "{site: a, hub: {limits: {series: 5}, sites: {b: {}}, parts: 3}, nats: {domain: x, urls: ['nats://x']}}",
		"nats.embedded", "nats.urls", "nats.domain", "hub.parts")
	const receiver = "{site: a, hub: {receive: {remote_write: true, tokens_file: t}}}"
	f(receiver, "{site: a, hub: {receive: {remote_write: true, tokens_file: u, pushgateway_ttl: 1m}, remote_write: [{url: 'http://x/'}], pushgateway: {url: 'http://x'}}}")
	f(receiver, "{site: a, hub: {receive: {pushgateway: true, tokens_file: t, listen_address: ':1'}}}",
		"hub.receive.remote_write", "hub.receive.pushgateway", "hub.receive.listen_address")
	const gateway = "{site: a, gateway: {}}"
	f(gateway, "{site: a, gateway: {ttl: 1h, limits: {series: 5}, relabel_configs: [{action: labeldrop, regex: x}]}, global: {scrape_interval: 1m}}")
	f(gateway, "{site: a, gateway: {redis: {}, http: false, listen_address: ':1'}}", "gateway.listen_address", "gateway.redis", "gateway.http")
	f(gateway, "{site: a, edge: {}}", "nats.embedded", "edge", "gateway")
	f("{site: a, edge: {}, nats_exporter: {}}", "{site: a, edge: {}, nats_exporter: {servers: [], embedded: true}}")
	f("{site: a, edge: {}, nats_exporter: {}}", "{site: a, edge: {}, nats_exporter: {servers: [{url: 'http://a'}], compat: prometheus-nats-exporter}}",
		"nats_exporter.servers", "nats_exporter.compat")
	f("{site: a, hub: {}, nats: {embedded: {}}}", "{site: a, hub: {}, nats: {embedded: {listen: '127.0.0.1:1'}, stream: {replicas: 3}}}",
		"nats.embedded.listen", "nats.stream.replicas")
}

func TestSecretsAreNotShown(t *testing.T) {
	_, err := Parse([]byte(`{site: a, edge: {}, nats: {urls: ["nats://me:hunter2@host", "http://me:hunter2@host", "nats://me:hunter2@%zz"], proxy_url: "ftp://me:hunter2@x"}}`))
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("error is %v", err)
	}
}

func TestFiles(t *testing.T) {
	equal(t, "files", load(t, "testdata/edge.yml").Files(), []NamedFile{
		{"nats.token_file", "testdata/token"},
		{"nats.tls_config.ca_file", "testdata/tls/ca.pem"},
		{"edge.scrape_configs[0].authorization.credentials_file", "testdata/bearer"},
		{"edge.scrape_configs[1].authorization.credentials_file", "testdata/bearer"},
		{"edge.match_file", "testdata/selectors.txt"},
	})
	equal(t, "files", load(t, "testdata/hub.yml").Files(), []NamedFile{{"nats.embedded.auth.tokens_file", "testdata/tokens"}})
}

func TestConfigMadeByHand(t *testing.T) {
	c := DefaultConfig()
	c.Site, c.Edge, c.Hub = "demo", &Edge{Config: edge.DefaultConfig()}, &Hub{Config: hub.DefaultConfig()}
	for range 2 {
		if err := c.Validate(); err != nil {
			t.Fatal(err)
		}
	}
	equal(t, "hub name", c.Hub.Name, "demo")
	equal(t, "listener", c.NATS.Embedded.Listen, "127.0.0.1:4222")
}

func TestLoadClient(t *testing.T) {
	dir := t.TempDir()
	f := func(text, urls, token string) {
		t.Helper()
		file := filepath.Join(dir, "look.yml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := LoadClient(file)
		if err != nil || strings.Join(c.URLs, " ") != urls || c.TokenFile != token {
			t.Errorf("%s: %v %q, %v; want %q %q", text, c.URLs, c.TokenFile, err, urls, token)
		}
	}
	f("nats: {urls: ['nats://a:4222'], token_file: t}", "nats://a:4222", filepath.Join(dir, "t"))
	f("nats: {urls: ['nats://a:4222']}\nhub: {nats: {urls: ['nats://b:4222'], token_file: t}}", "nats://b:4222", filepath.Join(dir, "t"))
	file := filepath.Join(dir, "bad.yml")
	if err := os.WriteFile(file, []byte("nats: {urls: ['nats://a:4222'], tokens: t}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadClient(file); err == nil || !strings.Contains(err.Error(), file+": line 1, column 33: nats.tokens: unknown key") {
		t.Error(err)
	}
}
