package receive

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/thalweg/thalweg/internal/telemetry"
)

// repeatEvery bounds how often refusals of one address are logged.
const repeatEvery = time.Minute

// Guard lets those senders through who may write. It is safe for concurrent use.
type Guard struct {
	repeats *telemetry.Repeats
	tokens  atomic.Pointer[tokens] // nil: nobody is asked
	refused prometheus.Counter
}

// GuardOptions of NewGuard. All are required.
type GuardOptions struct {
	Config Config
	Logger *slog.Logger
}

// NewGuard reads the file of tokens, if there is one.
func NewGuard(o GuardOptions) (*Guard, error) {
	g := &Guard{
		repeats: telemetry.NewRepeats(o.Logger, repeatEvery),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "thalweg_receive_unauthorized_requests_total",
			Help: "Requests to receivers of senders that may not write.",
		}),
	}
	use, err := g.Prepare(o.Config)
	if err != nil {
		return nil, err
	}
	use()
	return g, nil
}

// Prepare reads what another configuration needs, and returns a function that puts it in force. Listeners do not change.
func (g *Guard) Prepare(c Config) (use func(), err error) {
	if c.TokensFile == "" {
		return func() { g.tokens.Store(nil) }, nil
	}
	all, err := readTokens(c.TokensFile)
	if err != nil {
		return nil, err
	}
	return func() { g.tokens.Store(&all) }, nil
}

// Knows reports whether there is a token for a name, or nobody is asked.
func (g *Guard) Knows(name string) bool {
	all := g.tokens.Load()
	return all == nil || all.has(name)
}

// Metrics returns the collectors of this package.
func (g *Guard) Metrics() []prometheus.Collector { return []prometheus.Collector{g.refused} }

type senderKey struct{}

// Sender names the sender of a request that a Guard let through; "" if nobody is asked.
func Sender(r *http.Request) string {
	name, _ := r.Context().Value(senderKey{}).(string)
	return name
}

// Handler passes on the requests of those who may write.
func (g *Guard) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		all := g.tokens.Load()
		if all == nil {
			next.ServeHTTP(w, r)
			return
		}
		name, why := all.sender(r)
		if why != "" {
			g.refuse(w, r, name, why)
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), senderKey{}, name)))
	})
}

// sender names who sent a request, by a bearer token or, beside the name, by a password. Otherwise it says why not.
func (t tokens) sender(r *http.Request) (name, why string) {
	if user, password, ok := r.BasicAuth(); ok {
		if holder, ok := t.holder(password); ok && holder == user {
			return user, ""
		}
		return user, "the password is not a token of this user"
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if token = strings.TrimSpace(token); token == "" || !strings.EqualFold(scheme, "Bearer") {
		return "", "a bearer token is needed, or a user with a token as password"
	}
	if name, ok := t.holder(token); ok {
		return name, ""
	}
	return "", "the token is not known"
}

func (g *Guard) refuse(w http.ResponseWriter, r *http.Request, name, why string) {
	g.refused.Inc()
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	const shown = 64 // of a name that anybody may have made up
	g.repeats.Log(slog.LevelWarn, "refused "+host, "sender refused", slog.String("audit", "receive_refused"),
		slog.String("name", name[:min(len(name), shown)]), slog.String("path", r.URL.Path), slog.String("remote", r.RemoteAddr), slog.String("reason", why))
	w.Header().Add("WWW-Authenticate", `Bearer realm="thalweg"`)
	w.Header().Add("WWW-Authenticate", `Basic realm="thalweg", charset="UTF-8"`)
	http.Error(w, why, http.StatusUnauthorized)
}
