package telemeter

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"time"

	"github.com/thalweg/thalweg/internal/identity"
)

// authority knows who may push as whom.
type authority interface {
	// authorize returns the account behind a client's own token, or a *refusal.
	authorize(ctx context.Context, id, token string) (account string, err error)
	// holds reports whether what was authorised for an account still is.
	holds(id, account string) bool
}

// refusal is the answer to who may not push.
type refusal struct {
	code       int
	text       string // for the client
	retryAfter string // "" or as in the header
}

func (r *refusal) Error() string { return r.text }

// tokens is the authority of a file: the accounts of each id.
type tokens map[string][]string

// readTokens reads a file of lines "ID TOKEN". Its errors quote no token.
func readTokens(path string) (tokens, error) {
	all := tokens{}
	err := identity.ReadTokens(path, func(id, token string) error {
		if err := checkID(id); err != nil {
			return err
		}
		all[id] = append(all[id], accountOf(id, token))
		return nil
	})
	return all, err
}

// accountOf is a hash of a token, so that comparing two tells nothing about either.
func accountOf(id, token string) string {
	sum := sha256.Sum256([]byte(id + "\x00" + token))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func (t tokens) authorize(_ context.Context, id, token string) (string, error) {
	account := accountOf(id, token)
	if !t.holds(id, account) {
		return "", &refusal{code: http.StatusUnauthorized, text: "this token is not one of the id " + quoted(id)}
	}
	return account, nil
}

func (t tokens) holds(id, account string) bool { return slices.Contains(t[id], account) }

const (
	upstreamTimeout = 10 * time.Second
	maxUpstream     = 32 << 10 // bytes of an answer
	maxAsking       = 32       // requests at a time
)

// upstream is an authorisation server.
type upstream struct {
	url    string
	client *http.Client
	asking chan struct{} // has a token for each request
}

func newUpstream(url string) *upstream {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = maxAsking
	return &upstream{
		url: url, asking: make(chan struct{}, maxAsking),
		client: &http.Client{Timeout: upstreamTimeout, Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse // a token goes nowhere else
		}},
	}
}

// upstreamMessage goes both ways.
type upstreamMessage struct {
	Token     string `json:"authorization_token"`
	ClusterID string `json:"cluster_id"`
	AccountID string `json:"account_id"`
}

func (u *upstream) authorize(ctx context.Context, id, token string) (string, error) {
	select {
	case u.asking <- struct{}{}:
		defer func() { <-u.asking }()
	default:
		return "", &refusal{code: http.StatusServiceUnavailable, text: "too many clients ask at a time", retryAfter: "10"}
	}
	body, err := json.Marshal(upstreamMessage{Token: token, ClusterID: id})
	if err != nil {
		return "", fmt.Errorf("ask authorize_url: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, u.url, bytes.NewReader(body))
	if err != nil {
		return "", fmt.Errorf("ask authorize_url: %w", err)
	}
	request.Header.Set("Content-Type", "application/json")
	answer, err := u.client.Do(request)
	if err != nil {
		return "", fmt.Errorf("ask authorize_url: %w", err)
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(io.LimitReader(answer.Body, maxUpstream))
	if err != nil {
		return "", fmt.Errorf("read answer of authorize_url: %w", err)
	}
	return parseUpstream(answer, content)
}

func parseUpstream(answer *http.Response, content []byte) (account string, err error) {
	switch code := answer.StatusCode; {
	case code == http.StatusOK || code == http.StatusCreated:
	case code == http.StatusTooManyRequests:
		return "", &refusal{code: code, text: "the authorisation server has too much to do", retryAfter: "300"}
	case code >= 400 && code < 500:
		return "", &refusal{code: code, text: "the authorisation server refuses: " + http.StatusText(code)}
	default:
		return "", fmt.Errorf("answer of authorize_url: status %d", code)
	}
	if media, _, err := mime.ParseMediaType(answer.Header.Get("Content-Type")); err != nil || media != "application/json" {
		return "", fmt.Errorf("answer of authorize_url: content type is %q, not application/json", answer.Header.Get("Content-Type"))
	}
	var m upstreamMessage
	if err := json.Unmarshal(content, &m); err != nil {
		return "", fmt.Errorf("parse answer of authorize_url: %w", err)
	}
	if m.AccountID == "" {
		return "", errors.New("answer of authorize_url: account_id is empty")
	}
	return m.AccountID, nil
}

// holds is true for the life of a token: the server is not asked about every push.
func (u *upstream) holds(string, string) bool { return true }
