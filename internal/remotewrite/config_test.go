package remotewrite

import (
	"fmt"
	"strings"
	"testing"
	"time"

	promconfig "github.com/prometheus/prometheus/config"
	"go.yaml.in/yaml/v2"
)

func TestDefaults(t *testing.T) {
	c := parse(t, "url: http://example.com:9090/api/v1/write")
	p := promconfig.DefaultRemoteWriteConfig
	expect(t, "protobuf_message", string(c.Prometheus.ProtobufMessage), "prometheus.WriteRequest")
	expect(t, "remote_timeout", c.Prometheus.RemoteTimeout, p.RemoteTimeout)
	expect(t, "follow_redirects", c.Prometheus.HTTPClientConfig.FollowRedirects, true)
	expect(t, "metadata_config.send", c.Prometheus.MetadataConfig.Send, true)
	expect(t, "max_samples_per_send", c.Prometheus.QueueConfig.MaxSamplesPerSend, 2000)
	expect(t, "max_shards", c.Prometheus.QueueConfig.MaxShards, defaultMaxShards)
	expect(t, "retry_on_http_429", c.Prometheus.QueueConfig.RetryOnRateLimit, true)
	expect(t, "max_backoff", time.Duration(c.Prometheus.QueueConfig.MaxBackoff), 5*time.Second)
	expect(t, "out_of_order", c.OutOfOrder, SendOutOfOrder)
	expect(t, "start", c.Start, StartNow)
	expect(t, "ignored", fmt.Sprint(c.Ignored()), "[]")

	// Keys of a section that is there in part have their defaults all the same.
	c = parse(t, "{url: 'http://h', queue_config: {min_shards: 10, retry_on_http_429: false}}")
	expect(t, "max_shards", c.Prometheus.QueueConfig.MaxShards, defaultMaxShards)
	expect(t, "retry_on_http_429", c.Prometheus.QueueConfig.RetryOnRateLimit, false)
	expect(t, "max_samples_per_send", c.Prometheus.QueueConfig.MaxSamplesPerSend, 2000)
	c = parse(t, "{url: 'http://h', queue_config: {capacity: 1, min_shards: 2, max_shards: 3, batch_send_deadline: 1s}, failed_request_logging: true}")
	expect(t, "ignored", fmt.Sprint(c.Ignored()), "[queue_config.capacity queue_config.min_shards queue_config.batch_send_deadline failed_request_logging]")
	expect(t, "max_shards", c.Prometheus.QueueConfig.MaxShards, 3)
}

// TestPrometheusConfig takes what Prometheus' documentation shows.
func TestPrometheusConfig(t *testing.T) {
	const text = `
url: https://example.com/api/v1/write
name: long-term
remote_timeout: 10s
headers: {X-Scope-OrgID: team}
write_relabel_configs:
  - {source_labels: [__name__], regex: expensive.*, action: drop}
send_exemplars: true
send_native_histograms: true
round_robin_dns: true
protobuf_message: io.prometheus.write.v2.Request
basic_auth: {username: u, password_file: p}
tls_config: {ca_file: ca.pem, insecure_skip_verify: false}
proxy_url: http://proxy:3128
follow_redirects: false
enable_http2: true
http_headers: {X-More: {values: [a]}}
queue_config: {max_shards: 20, max_samples_per_send: 500, min_backoff: 1s, max_backoff: 1m, sample_age_limit: 1d}
metadata_config: {send: false, send_interval: 5m, max_samples_per_send: 100}
out_of_order: drop
start: oldest
`
	c := parse(t, text)
	c.SetDirectory("/etc/thalweg")
	expect(t, "password_file", c.Prometheus.HTTPClientConfig.BasicAuth.PasswordFile, "/etc/thalweg/p")
	expect(t, "ca_file", c.Prometheus.HTTPClientConfig.TLSConfig.CAFile, "/etc/thalweg/ca.pem")
	expect(t, "name", c.OutputName(), "long-term")
	// Prometheus reads the same into the same.
	var p promconfig.RemoteWriteConfig
	if err := yaml.UnmarshalStrict([]byte(strings.Split(text, "out_of_order")[0]), &p); err != nil {
		t.Fatal(err)
	}
	c = parse(t, text)
	want, err := yaml.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	p.QueueConfig.RetryOnRateLimit = true
	c.Prometheus.WriteRelabelConfigs[0].NameValidationScheme = p.WriteRelabelConfigs[0].NameValidationScheme
	got, err := yaml.Marshal(c.Prometheus)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "config", strings.Replace(string(got), "  retry_on_http_429: true\n", "", 1), string(want))
}

func TestOutputName(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		c := parse(t, text)
		expect(t, text, c.OutputName(), want)
	}
	f("url: http://example.com/write", "example.com")
	f("url: http://user:secret@example.com:9090/write?x=y", "example.com:9090")
	f("url: http://[::1]:9090/write", "::1_:9090")
	f("{url: 'http://example.com', name: there}", "there")
}

func TestBadConfigs(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		var list []Config
		err := yaml.UnmarshalStrict([]byte(text), &list)
		if err == nil {
			err = ValidateAll(list)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s:\n got %v\nwant %s", text, err, want)
		}
	}
	f("[{}]", "url for remote_write is empty")
	f("[{url: 'ftp://h'}]", "[0].url: is not an http:// or https:// URL")
	f("[{url: 'http:///write'}]", "[0].url: is not an http:// or https:// URL")
	f("[{url: 'http://h', name: 'a b'}]", `[0].name: "a b" is not 1 to 64 letters`)
	f("[{url: 'http://h', out_of_order: maybe}]", `[0].out_of_order: "maybe" is not send or drop`)
	f("[{url: 'http://h', start: yesterday}]", `[0].start: "yesterday" is not now or oldest`)
	f("[{url: 'http://h', remote_timeout: 0s}]", "[0].remote_timeout: 0s is not positive")
	f("[{url: 'http://h', queue_config: {min_backoff: 0s}}]", "[0].queue_config.min_backoff: 0s is not positive")
	f("[{url: 'http://h', queue_config: {max_shards: 0}}]", "max_shards must be positive")
	f("[{url: 'http://h', queue_config: {min_shards: 5, max_shards: 4}}]", "min_shards must not be greater than max_shards")
	f("[{url: 'http://h', queue_config: {max_shard: 1}}]", "field max_shard not found")
	f("[{url: 'http://h', headers: {Authorization: x}}]", "authorization header must be changed via")
	f("[{url: 'http://h', headers: {Content-Type: x}}]", "is a reserved header")
	f("[{url: 'http://h', protobuf_message: v3}]", "invalid protobuf_message value")
	f("[{url: 'http://h', basic_auth: {username: u}, authorization: {credentials: c}}]", "at most one of")
	f("[{url: 'http://h', write_relabel_configs: [null]}]", "empty or null relabeling rule")
	f("[{url: 'http://h', unknown: 1}]", "field unknown not found")
	f("[{url: 'http://h/1'}, {url: 'http://h/2'}]", `[1].name: "h" is the name of [0], too`)
	f("[{url: 'http://h/1', name: x}, {url: 'http://g/2', name: x}]", `[1].name: "x" is the name of [0], too`)
}

func TestSecretsAreNotShown(t *testing.T) {
	c := parse(t, "{url: 'http://user:pazz@h/write', basic_auth: {username: u, password: pazz}}")
	text, err := yaml.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	o := newOut(t, "http://user:pazz@h", "")
	if all := string(text) + fmt.Sprint(o.Status()) + c.OutputName(); strings.Contains(all, "pazz") {
		t.Error(all)
	}
}
