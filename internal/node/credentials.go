package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/config"
	"github.com/thalweg/thalweg/internal/identity"
	"github.com/thalweg/thalweg/internal/telemetry"
	"github.com/thalweg/thalweg/internal/web"
)

// errNoServer is the answer where keys are checked by somebody else.
var errNoServer = errors.New("no NATS server runs in this process: ask the one in which it does, or see docs/security.md for how to sign sites for an external server")

// webCredentials connects the API about credentials with the registry of the embedded server.
func (n *Node) webCredentials() *web.Credentials {
	repeats := telemetry.NewRepeats(n.log.Logger, time.Minute)
	return &web.Credentials{
		Administrator: n.administrator,
		Refused: func(r *http.Request, why error) {
			host, _, _ := net.SplitHostPort(r.RemoteAddr)
			repeats.Log(slog.LevelWarn, host, "request refused", slog.String("audit", "admin_refused"), slog.String("method", r.Method),
				slog.String("path", r.URL.Path), slog.String("address", r.RemoteAddr), slog.Any("reason", why))
		},
		Invite: n.invite,
		Revoke: func(ctx context.Context, site, key, by string) (web.Revocation, error) {
			if n.server == nil {
				return web.Revocation{}, errNoServer
			}
			keys, err := n.server.Registry().Revoke(ctx, site, key, by)
			return web.Revocation{Site: site, Keys: keys}, err
		},
		List: n.identities,
		Unavailable: func(err error) bool {
			_, refused := errors.AsType[*bus.APIError](err)
			return refused || errors.Is(err, identity.ErrNoRegistry) || errors.Is(err, bus.ErrNotConnected) ||
				errors.Is(err, bus.ErrDoubtful) || errors.Is(err, bus.ErrNotStored) || errors.Is(err, context.DeadlineExceeded)
		},
	}
}

// administrator names who may manage credentials: a user of the web configuration who may read everything or, if there
// are no users, somebody on this machine.
func (n *Node) administrator(r *http.Request) (who string, err error) {
	users, err := config.WebUsers(n.options.WebConfigFile)
	if err != nil {
		return "", err
	}
	if len(users) == 0 {
		return "local " + r.RemoteAddr, web.Local(r)
	}
	user, _, _ := r.BasicAuth() // the web configuration has checked the password
	if !users[user] {
		return "", errors.New("this needs a user of the web configuration")
	}
	if n.hub != nil {
		if sight, limited := n.hub.sight(r); limited && !sight.SeesAll() {
			return "", fmt.Errorf(`user %q is limited by hub.views; a view of {__name__!=""} is no limit`, user)
		}
	}
	return user + " " + r.RemoteAddr, nil
}

func (n *Node) invite(ctx context.Context, site string, addresses []string, lasts time.Duration, by string) (web.Invitation, error) {
	if n.server == nil {
		return web.Invitation{}, errNoServer
	}
	token, expires, err := n.server.Invite(ctx, site, addresses, lasts, by)
	if err != nil {
		return web.Invitation{}, err
	}
	invitation := web.Invitation{Site: site, Token: token.String(), Expires: expires}
	for _, u := range token.URLs {
		if identity.Exposed(u) {
			invitation.Warning = fmt.Sprintf("%s is not encrypted: who reads along can use the token before the site does; give nats.embedded a tls_server_config", u)
		}
	}
	return invitation, nil
}

func (n *Node) identities(ctx context.Context) ([]web.Identity, error) {
	if n.server == nil {
		return nil, errNoServer
	}
	records, err := n.server.Registry().List(ctx)
	if err != nil {
		return nil, err
	}
	seen := map[string]time.Time{}
	if n.hub != nil {
		for _, s := range n.sites() {
			seen[s.Name] = s.LastRow
		}
	}
	list := []web.Identity{}
	for _, r := range records {
		i := web.Identity{Site: r.Site, LastSeen: seen[r.Site], Revoked: len(r.Revoked)}
		for _, k := range r.Keys {
			i.Keys = append(i.Keys, web.IdentityKey{Key: k.Public, Added: k.Added, By: k.By, Replaces: k.Replaces})
		}
		for _, j := range r.Joins {
			if j.Key == "" {
				i.Joins = append(i.Joins, web.PendingJoin{Expires: j.Expires, By: j.By})
			}
		}
		list = append(list, i)
	}
	return list, nil
}
