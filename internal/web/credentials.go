package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

const (
	// defaultInvitation is how long a join token lasts if nothing else is asked for, maxInvitation the longest.
	defaultInvitation = time.Hour
	maxInvitation     = 30 * 24 * time.Hour
	maxFormBytes      = 64 << 10
)

// Credentials are the functions behind the API about who may connect. Only an administrator gets through to them; by is
// who that is, for the log.
type Credentials struct {
	// Administrator names the sender of a request, or says why it is none.
	Administrator func(*http.Request) (who string, err error)
	// Refused is told of a request that was none of an administrator.
	Refused func(r *http.Request, why error)
	// Invite makes a join token. Its errors are the asker's, unless Unavailable says otherwise.
	Invite func(ctx context.Context, site string, addresses []string, lasts time.Duration, by string) (Invitation, error)
	// Revoke refuses a key of a site, all of them if key is "".
	Revoke func(ctx context.Context, site, key, by string) (Revocation, error)
	List   func(context.Context) ([]Identity, error)
	// Unavailable reports whether an error is that of a server which may be there later.
	Unavailable func(error) bool
}

// Invitation lets a site join.
type Invitation struct {
	Site    string    `json:"site"`
	Token   string    `json:"token"`
	Expires time.Time `json:"expires"`
	// Warning is what whoever hands the token over should know.
	Warning string `json:"warning,omitempty"`
}

// Revocation says which keys are refused from now on.
type Revocation struct {
	Site string   `json:"site"`
	Keys []string `json:"keys"`
}

// Identity is what is known of the credentials of a site.
type Identity struct {
	Site     string        `json:"site"`
	LastSeen time.Time     `json:"lastSeen,omitzero"` // the last row that came from it
	Keys     []IdentityKey `json:"keys,omitempty"`
	Revoked  int           `json:"revokedKeys"`
	Joins    []PendingJoin `json:"pendingJoins,omitempty"`
}

// IdentityKey is a public key with which a site may connect.
type IdentityKey struct {
	Key   string    `json:"key"`
	Added time.Time `json:"added"`
	By    string    `json:"by"`
	// Replaces is the key that this one is to replace as soon as it has been used.
	Replaces string `json:"replaces,omitempty"`
}

// PendingJoin is a join token that was not used yet.
type PendingJoin struct {
	Expires time.Time `json:"expires"`
	By      string    `json:"by"`
}

// credentialRoutes adds the API about credentials.
func credentialRoutes(c *Credentials, handle func(pattern, name string, h http.Handler)) {
	add := func(method, path, name string, act func(r *http.Request, by string) (any, error)) {
		handle(method+" "+path, name, http.NewCrossOriginProtection().Handler(c.guarded(act)))
	}
	const sites, list = "/api/v1/thalweg/sites/{site}", "/api/v1/thalweg/credentials"
	add("POST", sites, "/api/v1/thalweg/sites/", func(r *http.Request, by string) (any, error) {
		lasts, err := invitationTime(r.FormValue("expires"))
		if err != nil {
			return nil, err
		}
		return c.Invite(r.Context(), r.PathValue("site"), r.Form["address"], lasts, by)
	})
	add("DELETE", sites, "/api/v1/thalweg/sites/", func(r *http.Request, by string) (any, error) {
		return c.Revoke(r.Context(), r.PathValue("site"), r.URL.Query().Get("key"), by)
	})
	add("GET", list, list, func(r *http.Request, _ string) (any, error) { return c.List(r.Context()) })
}

func invitationTime(s string) (time.Duration, error) {
	if s == "" {
		return defaultInvitation, nil
	}
	lasts, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("expires: %q is no duration such as 1h", s)
	}
	if lasts <= 0 || lasts > maxInvitation {
		return 0, fmt.Errorf("expires: %s is not between 0 and %s", s, maxInvitation)
	}
	return lasts, nil
}

// guarded lets administrators through, and answers in the form of the API.
func (c *Credentials) guarded(act func(r *http.Request, by string) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		reply := func(code int, a any) {
			w.WriteHeader(code)
			_ = json.NewEncoder(w).Encode(a) // an error means that the client is gone
		}
		by, err := c.Administrator(r)
		if err != nil {
			c.Refused(r, err)
			reply(http.StatusForbidden, failure{Status: "error", Error: err.Error()})
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxFormBytes)
		data, err := act(r, by)
		switch {
		case err == nil:
			reply(http.StatusOK, answer{Status: "success", Data: data})
		case c.Unavailable(err):
			reply(http.StatusServiceUnavailable, failure{Status: "error", Error: err.Error()})
		default:
			reply(http.StatusBadRequest, failure{Status: "error", Error: err.Error()})
		}
	})
}

type failure struct {
	Status string `json:"status"`
	Error  string `json:"error"`
}

// Local returns why a request does not surely come from somebody on this machine, who may do what needs no password. A
// proxy on this machine passes on what others ask, and a page from elsewhere can make a browser ask.
func Local(r *http.Request) error {
	if !isLoopback(r.RemoteAddr) {
		return errors.New("only possible from the machine itself, or for users of a --web.config.file with basic_auth_users")
	}
	for _, header := range []string{"Origin", "Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-Ip"} {
		if r.Header.Get(header) != "" {
			return fmt.Errorf("not possible through a proxy or from a page (header %s) without a --web.config.file with basic_auth_users", header)
		}
	}
	if !isLoopback(r.Host) {
		return fmt.Errorf("not possible under the name %q without a --web.config.file with basic_auth_users; use 127.0.0.1", r.Host)
	}
	return nil
}

// isLoopback takes HOST:PORT or HOST.
func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = address
	}
	if n := len(host); n > 2 && host[0] == '[' && host[n-1] == ']' {
		host = host[1 : n-1]
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
