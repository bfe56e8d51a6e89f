package natsd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/time/rate"

	"github.com/thalweg/thalweg/internal/telemetry"
)

const (
	issuerTimeout = 3 * time.Second
	// The issuer is asked so often at most: anybody can send a token that names a key which has to be looked for.
	issuerEvery = 5 * time.Second
	issuerBurst = 4
)

// bearer checks the tokens of an OpenID provider. The provider's keys are kept: it is only asked for one that is not
// known, so that tokens can be checked while it is away. A nil bearer accepts nothing.
type bearer struct {
	config   OIDC
	log      *slog.Logger
	verifier atomic.Pointer[oidc.IDTokenVerifier] // nil until the provider has been found
}

func newBearer(c *OIDC, log *slog.Logger) *bearer {
	if c.Issuer == "" {
		return nil
	}
	return &bearer{config: *c, log: log}
}

// run finds the provider, and ends then or with ctx.
func (b *bearer) run(ctx context.Context) {
	if b == nil {
		return
	}
	client := &http.Client{Timeout: issuerTimeout, Transport: &sparing{limit: rate.NewLimiter(rate.Every(issuerEvery), issuerBurst)}}
	repeats := telemetry.NewRepeats(b.log, repeatsInterval)
	for {
		// The provider keeps the context, to fetch keys with.
		provider, err := oidc.NewProvider(oidc.ClientContext(ctx, client), b.config.Issuer)
		if err == nil {
			b.verifier.Store(provider.Verifier(&oidc.Config{ClientID: b.config.Audience}))
			<-ctx.Done()
			return
		}
		if ctx.Err() != nil {
			return
		}
		repeats.Log(slog.LevelError, "issuer", "no bearer token is accepted until the issuer answers",
			slog.String("issuer", b.config.Issuer), slog.Any("err", err))
		t := time.NewTimer(issuerEvery)
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// looksLike reports whether a token may be one of a provider.
func (b *bearer) looksLike(token string) bool { return b != nil && strings.Count(token, ".") == 2 }

// verify returns the site of a token, and when it expires.
func (b *bearer) verify(token string) (site string, expires time.Time, err error) {
	verifier := b.verifier.Load()
	if verifier == nil {
		return "", time.Time{}, fmt.Errorf("the issuer %q has not answered yet", b.config.Issuer)
	}
	ctx, cancel := context.WithTimeout(context.Background(), issuerTimeout)
	defer cancel()
	t, err := verifier.Verify(ctx, token)
	if err != nil {
		return "", time.Time{}, err
	}
	claims := map[string]any{}
	if err := t.Claims(&claims); err != nil {
		return "", time.Time{}, err
	}
	site, ok := claims[b.config.Claim].(string)
	if !ok || site == "" {
		return "", time.Time{}, fmt.Errorf("the token has no claim %q", b.config.Claim)
	}
	return site, t.Expiry, nil
}

// sparing is a transport that makes only so many requests.
type sparing struct{ limit *rate.Limiter }

func (s *sparing) RoundTrip(r *http.Request) (*http.Response, error) {
	if !s.limit.Allow() {
		return nil, errors.New("the issuer was asked a moment ago")
	}
	return http.DefaultTransport.RoundTrip(r)
}
