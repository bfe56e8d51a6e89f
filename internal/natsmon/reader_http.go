package natsmon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/prometheus/common/config"
)

// httpReader reads a server through its monitoring port.
type httpReader struct {
	base               *url.URL
	client             *http.Client
	compat             bool
	limits             limits
	now                func() time.Time
	connectionsPerPage int
}

func newHTTPReader(c ServerConfig, compat bool, l limits, now func() time.Time) (*httpReader, error) {
	base, err := url.Parse(c.URL)
	if err != nil {
		return nil, fmt.Errorf("parse URL of a server: %w", err)
	}
	client, err := config.NewClientFromConfig(config.HTTPClientConfig{
		BasicAuth: c.BasicAuth,
		TLSConfig: c.TLSConfig,
		// A monitoring port does not redirect; whoever does is not meant to see the credentials.
		FollowRedirects: false,
	}, "nats_exporter", config.WithUserAgent("thalweg"), config.WithHTTP2Disabled())
	if err != nil {
		return nil, fmt.Errorf("HTTP client for %q: %w", base.Redacted(), err)
	}
	return &httpReader{
		base: base, client: client, compat: compat, limits: l, now: now, connectionsPerPage: connectionsPerPage,
	}, nil
}

// Name implements Reader.
func (r *httpReader) Name() string {
	u := *r.base
	u.User = nil
	return u.String()
}

// httpParallel is how many requests are made to a server at a time.
const httpParallel = 3

// Read implements Reader.
func (r *httpReader) Read(ctx context.Context) ([]*Server, error) {
	s := &Server{At: r.now(), Address: r.base.Host + strings.TrimRight(r.base.Path, "/")}
	askAll(ctx, s, 1, []question{asked(r, Varz, nil, (*Server).identify)})
	if s.Varz == nil {
		return nil, s.Errors[Varz]
	}
	if s.ID == "" {
		return nil, errors.New("the answer has no server_id: not a NATS server")
	}
	questions := []question{
		{Healthz, r.health},
		{Connz, r.connections},
		asked(r, Routez, nil, func(s *Server, v *server.Routez) { s.Routes = v }),
		asked(r, Gatewayz, nil, func(s *Server, v *server.Gatewayz) { s.Gateways = v }),
		asked(r, Leafz, nil, func(s *Server, v *server.Leafz) { s.Leafs = v }),
		asked(r, Subsz, nil, func(s *Server, v *server.Subsz) { s.Subscriptions = v }),
		asked(r, Accstatz, url.Values{"unused": {"true"}}, func(s *Server, v *server.AccountStatz) { s.Accounts = v }),
		{Jsz, r.jetStream},
	}
	if r.compat {
		questions = append(questions, question{Accountz, r.accountLimits})
	}
	askAll(ctx, s, httpParallel, questions)
	return []*Server{s}, nil
}

// asked makes a question of a request.
func asked[T any](r *httpReader, endpoint Endpoint, query url.Values, fill func(*Server, *T)) question {
	return question{endpoint, func(ctx context.Context) (func(*Server), error) {
		v := new(T)
		if err := r.get(ctx, endpoint, query, into(v)); err != nil {
			return nil, err
		}
		return func(s *Server) { fill(s, v) }, nil
	}}
}

// into decodes JSON.
func into(v any) func(io.Reader) error {
	return func(body io.Reader) error { return json.NewDecoder(body).Decode(v) }
}

func (r *httpReader) health(ctx context.Context) (func(*Server), error) {
	all := make(map[string]*server.HealthStatus, len(HealthChecks))
	for name, o := range HealthChecks {
		query := url.Values{}
		for key, set := range map[string]bool{
			"js-enabled-only": o.JSEnabledOnly, "js-server-only": o.JSServerOnly, "js-meta-only": o.JSMetaOnly, "details": o.Details,
		} {
			if set {
				query.Set(key, "true")
			}
		}
		status := &server.HealthStatus{}
		if err := r.get(ctx, Healthz, query, into(status)); err != nil {
			return nil, err
		}
		all[name] = status
	}
	return func(s *Server) { s.Health = all }, nil
}

func (r *httpReader) connections(ctx context.Context) (func(*Server), error) {
	sum, err := readConnections(r.connectionsPerPage, func(sum *Connections, offset, limit int) (n int, err error) {
		query := url.Values{"offset": {strconv.Itoa(offset)}, "limit": {strconv.Itoa(limit)}}
		err = r.get(ctx, Connz, query, func(body io.Reader) error {
			n, err = sum.decode(body)
			return err
		})
		return n, err
	})
	return func(s *Server) { s.Connections = sum }, err
}

func (r *httpReader) jetStream(ctx context.Context) (func(*Server), error) {
	info, err := readJetStream(r.limits.accounts, func(o server.JSzOptions) (*server.JSInfo, error) {
		page := &server.JSInfo{}
		return page, r.get(ctx, Jsz, url.Values{
			"accounts": {"true"}, "streams": {"true"}, "consumers": {"true"}, "direct-consumers": {"true"},
			"config": {"true"}, "raft": {"true"}, "offset": {strconv.Itoa(o.Offset)}, "limit": {strconv.Itoa(o.Limit)},
		}, into(page))
	})
	return func(s *Server) { s.JetStream = info }, err
}

func (r *httpReader) accountLimits(ctx context.Context) (func(*Server), error) {
	all, err := readAccountLimits(r.limits.accounts, func(account string) (*server.Accountz, error) {
		answer := &server.Accountz{}
		query := url.Values{}
		if account != "" {
			query.Set("acc", account)
		}
		return answer, r.get(ctx, Accountz, query, into(answer))
	})
	return func(s *Server) { s.AccountLimits = all }, err
}

// get asks for an endpoint and hands the body of the answer to read.
func (r *httpReader) get(ctx context.Context, endpoint Endpoint, query url.Values, read func(io.Reader) error) error {
	u := r.base.JoinPath(string(endpoint))
	u.RawQuery = query.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	response, err := r.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	// Healthz says with a status of 5xx that something is wrong, and in the body what.
	if response.StatusCode != http.StatusOK && (endpoint != Healthz || response.StatusCode < 500) {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 256)) // whatever says more
		return fmt.Errorf("GET %s: %s: %s", u.Redacted(), response.Status, strings.TrimSpace(string(text)))
	}
	body := &bounded{reader: response.Body, left: r.limits.responseBytes}
	if err := read(body); err != nil {
		return fmt.Errorf("read answer of %s: %w", u.Redacted(), err)
	}
	_, _ = io.CopyN(io.Discard, body, 512) // the end, without which the connection cannot be used again
	return nil
}

// bounded reads as much JSON as may take left bytes of memory once it is decoded, and says so if there is more. An object can
// be two bytes of JSON and hundreds of memory.
type bounded struct {
	reader io.Reader
	left   int64
}

// objectBytes are what an object takes beside its JSON.
const objectBytes = 256

var errTooLong = errors.New("the answer is too long")

// Read implements io.Reader.
func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooLong
	}
	n, err := b.reader.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n) + objectBytes*int64(bytes.Count(p[:n], []byte("{")))
	return n, err
}
