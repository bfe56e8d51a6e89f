package scrape

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	commonconfig "github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	promconfig "github.com/prometheus/prometheus/config"

	"github.com/thalweg/thalweg/internal/expo"
)

// DefaultBodySizeLimit bounds uncompressed bodies where body_size_limit does not.
const DefaultBodySizeLimit = 128 << 20

// fetcher fetches the bodies of one target. It is safe for concurrent use.
type fetcher struct {
	client   *http.Client
	near     *http.Request // asks a near target, far one that is not: see encoding. Only copies are sent
	far      *http.Request
	invalid  error // why there are no requests
	encoding encoding
	timeout  time.Duration
	limit    int64
	memory   *memory
	size     atomic.Int64 // of the last body
}

// fetchError says at which step a fetch ended.
type fetchError struct {
	reason reason
	err    error
}

func (e *fetchError) Error() string { return e.err.Error() }
func (e *fetchError) Unwrap() error { return e.err }

func newFetcher(client *http.Client, t *target, cfg *promconfig.ScrapeConfig, userAgent string, mem *memory) (*fetcher, error) {
	scheme, err := promconfig.ToEscapingScheme(cfg.MetricNameEscapingScheme, cfg.MetricNameValidationScheme)
	if err != nil {
		return nil, fmt.Errorf("metric_name_escaping_scheme: %w", err)
	}
	limit := int64(cfg.BodySizeLimit)
	if limit <= 0 {
		limit = DefaultBodySizeLimit
	}
	f := &fetcher{
		client:  client,
		timeout: t.timeout,
		limit:   limit,
		memory:  mem,
	}
	f.encoding.init(t, cfg)
	header := http.Header{
		"Accept":                              {accept(cfg.ScrapeProtocols, scheme)},
		"Accept-Encoding":                     {f.encoding.accept(false)},
		"User-Agent":                          {userAgent},
		"X-Prometheus-Scrape-Timeout-Seconds": {strconv.FormatFloat(t.timeout.Seconds(), 'f', -1, 64)},
	}
	if f.far, f.invalid = http.NewRequest(http.MethodGet, t.url.String(), http.NoBody); f.invalid != nil {
		return f, nil // every scrape says so
	}
	f.far.Header = header
	f.near = f.far.Clone(context.Background())
	f.near.Header.Set("Accept-Encoding", f.encoding.accept(true))
	return f, nil
}

// accept lists the protocols in the order of preference, with the weights that Prometheus gives them.
func accept(protocols []promconfig.ScrapeProtocol, scheme model.EscapingScheme) string {
	weight := len(promconfig.ScrapeProtocolsHeaders) + 1
	var b strings.Builder
	for _, p := range protocols {
		b.WriteString(promconfig.ScrapeProtocolsHeaders[p])
		if p == promconfig.PrometheusText1_0_0 || p == promconfig.OpenMetricsText1_0_0 {
			fmt.Fprintf(&b, ";%s=%s", model.EscapingKey, scheme)
		}
		fmt.Fprintf(&b, ";q=0.%d,", weight)
		weight--
	}
	fmt.Fprintf(&b, "*/*;q=0.%d", weight)
	return b.String()
}

// newClient returns the client for the targets of a job, or for those of its targets behind one Unix socket.
func newClient(cfg *promconfig.ScrapeConfig, socket string) (*http.Client, error) {
	dial := (&net.Dialer{}).DialContext
	var options []commonconfig.HTTPClientOption
	if socket != "" {
		dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}
		options = append(options, commonconfig.WithDialContextFunc(dial))
	}
	client, err := commonconfig.NewClientFromConfig(cfg.HTTPClientConfig, cfg.JobName, options...)
	if err != nil {
		return nil, fmt.Errorf("make HTTP client of job %q: %w", cfg.JobName, err)
	}
	if isPlain(&cfg.HTTPClientConfig) {
		client.Transport = newTransport(client.Transport, dial)
	}
	return client, nil
}

// fetch returns the uncompressed body, which is to be given to memory.release, and its content type. The timeout covers
// everything up to the last byte.
func (f *fetcher) fetch(ctx context.Context) (body *bytes.Buffer, contentType string, err error) {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	body, contentType, err = f.get(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, "", &fetchError{timedOut, fmt.Errorf("no complete answer within the scrape timeout of %s: %w", f.timeout, err)}
	}
	return body, contentType, err
}

func (f *fetcher) get(ctx context.Context) (*bytes.Buffer, string, error) {
	if f.invalid != nil {
		return nil, "", &fetchError{badRequest, fmt.Errorf("make request: %w", f.invalid)}
	}
	request := f.far
	if f.encoding.near.Load() {
		request = f.near
	}
	request = request.WithContext(f.encoding.trace(ctx))
	request.Header = request.Header.Clone() // credentials are added to it
	response, err := f.client.Do(request)
	if err != nil {
		if u := (*url.Error)(nil); errors.As(err, &u) {
			err = u.Err // the URL stands beside the error anyway
		}
		return nil, "", &fetchError{connect, fmt.Errorf("connect: %w", err)}
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		// The connection can be used again if the rest is read. That is not worth more than a short message.
		io.CopyN(io.Discard, response.Body, 4<<10)
		return nil, "", &fetchError{status, fmt.Errorf("server returned HTTP status %.100s", response.Status)}
	}
	body, err := f.memory.decoder(response.Header.Get("Content-Encoding"), response.Body)
	if err != nil {
		return nil, "", &fetchError{transfer, err}
	}
	defer body.Close()
	buf := f.memory.buffer()
	buf.Grow(int(f.size.Load()) + bytes.MinRead) // ReadFrom alone takes up to twice what it needs
	n, err := buf.ReadFrom(io.LimitReader(body, f.limit))
	if err != nil {
		f.memory.release(buf)
		return nil, "", &fetchError{transfer, fmt.Errorf("read body: %w", err)}
	}
	if f.size.Store(n); n >= f.limit {
		f.memory.release(buf)
		return nil, "", &fetchError{bodySize, &expo.LimitError{Limit: "body_size_limit", Max: int(f.limit)}}
	}
	return buf, response.Header.Get("Content-Type"), nil
}
