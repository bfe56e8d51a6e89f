package remotewrite

import (
	"context"
	"math/rand/v2"
	"net"
	"net/http"
	"time"

	commonconfig "github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	promconfig "github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"
	"github.com/prometheus/prometheus/storage/remote/azuread"
	"github.com/prometheus/prometheus/storage/remote/googleiam"
	"github.com/prometheus/sigv4"

	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/store"
	"github.com/thalweg/thalweg/internal/writeproto"
)

// settings are a configuration in force. They are not changed.
type settings struct {
	config     promconfig.RemoteWriteConfig
	outOfOrder OutOfOrder
	external   []labels.Label
	store      store.Config

	message  writeproto.Message // as configured
	client   *http.Client
	url      string
	shownURL string
	replaced chan struct{} // closed when others are in force
}

func newSettings(c Config, external labels.Labels, rules store.Config) (*settings, error) {
	s := &settings{
		config: c.Prometheus, outOfOrder: c.OutOfOrder, store: rules, message: writeproto.V1,
		url: c.Prometheus.URL.String(), shownURL: c.Prometheus.URL.Redacted(), replaced: make(chan struct{}),
	}
	external.Range(func(l labels.Label) { s.external = append(s.external, l) })
	if c.Prometheus.ProtobufMessage != promconfig.DefaultRemoteWriteConfig.ProtobufMessage { // there are two
		s.message = writeproto.V2
	}
	var err error
	s.client, err = newClient(&c.Prometheus)
	return s, err
}

// newClient returns Prometheus' client of a receiver.
func newClient(c *promconfig.RemoteWriteConfig) (*http.Client, error) {
	var options []commonconfig.HTTPClientOption
	if c.RoundRobinDNS {
		options = append(options, commonconfig.WithDialContextFunc(dialAny))
	}
	client, err := commonconfig.NewClientFromConfig(c.HTTPClientConfig, "remote_write", options...)
	if err != nil {
		return nil, err
	}
	t := client.Transport
	if len(c.Headers) > 0 {
		t = &withHeaders{headers: c.Headers, next: t}
	}
	switch {
	case c.SigV4Config != nil:
		t, err = sigv4.NewSigV4RoundTripper(c.SigV4Config, t)
	case c.AzureADConfig != nil:
		t, err = azuread.NewAzureADRoundTripper(c.AzureADConfig, t)
	case c.GoogleIAMConfig != nil:
		t, err = googleiam.NewRoundTripper(c.GoogleIAMConfig, t)
	}
	client.Transport = t
	return client, err
}

// withHeaders adds what is configured to every request.
type withHeaders struct {
	headers map[string]string
	next    http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t *withHeaders) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	for name, value := range t.headers {
		r.Header.Set(name, value)
	}
	return t.next.RoundTrip(r)
}

// CloseIdleConnections is what http.Client.CloseIdleConnections calls.
func (t *withHeaders) CloseIdleConnections() {
	if c, ok := t.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// dialAny connects to any of a host's addresses, so that the requests of a name with several are spread.
func dialAny(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return d.DialContext(ctx, network, address)
	}
	addresses, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		return nil, err
	}
	return d.DialContext(ctx, network, net.JoinHostPort(addresses[rand.IntN(len(addresses))], port))
}

// encoder returns an encoder of a message for these settings.
func (s *settings) encoder(message writeproto.Message) *writeproto.Encoder {
	return writeproto.NewEncoder(writeproto.EncoderOptions{
		Message: message, MaxSamples: s.config.QueueConfig.MaxSamplesPerSend,
		CacheBytes: maxCacheBytes / s.config.QueueConfig.MaxShards,
		Labels:     s.labels,
		Exemplars:  s.config.SendExemplars, NativeHistograms: s.config.SendNativeHistograms,
	})
}

// labels makes the labels of a series as the receiver sees them: those at /federate, and what write_relabel_configs
// makes of them.
func (s *settings) labels(site string, source *series.Source, column *series.Column, b *labels.Builder) bool {
	resolved, ok := s.store.Resolve(site, source.Labels, column.Labels)
	if !ok {
		return false
	}
	b.Reset(labels.EmptyLabels())
	b.Set(model.MetricNameLabel, column.Labels.Get(model.MetricNameLabel))
	for _, l := range resolved {
		b.Set(l.Name, l.Value)
	}
	for _, l := range s.external {
		if b.Get(l.Name) == "" {
			b.Set(l.Name, l.Value)
		}
	}
	return relabel.ProcessBuilder(b, s.config.WriteRelabelConfigs...) && b.Get(model.MetricNameLabel) != ""
}

// tooOld reports whether a time in ms is beyond sample_age_limit.
func (s *settings) tooOld(ms int64, now time.Time) bool {
	limit := time.Duration(s.config.QueueConfig.SampleAgeLimit)
	return limit > 0 && ms < now.Add(-limit).UnixMilli()
}
