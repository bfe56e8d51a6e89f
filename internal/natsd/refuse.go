package natsd

import (
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// auditCutOff is the event of a site that is refused for a while, the value of the log attribute audit.
const auditCutOff = "site_cut_off"

// Refuse closes the connections of a site, and lets it in again only after a while: it sends far more than it may. Its
// credential stays valid. In a cluster the other servers know nothing of it.
func (s *Server) Refuse(site string, d time.Duration) {
	s.auth.cutOff(site, time.Now().Add(d))
	closed, err := s.disconnect(func(c *server.ConnInfo) bool {
		name, _, _ := strings.Cut(c.AuthorizedUser, "/")
		return name == site
	})
	attributes := []any{"audit", auditCutOff, "site", site, slog.Duration("for", d), "closed_connections", closed}
	if err != nil {
		s.log.Error("close the connections of a site that is refused", append(attributes, "err", err)...)
		return
	}
	s.log.Warn("site is refused for a while", attributes...)
}

// cutOff notes that a site is refused until a time.
func (a *authenticator) cutOff(site string, until time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for other, end := range a.cut {
		if time.Now().After(end) {
			delete(a.cut, other)
		}
	}
	a.cut[site] = until
}

// isCutOff reports whether a site is refused for a while.
func (a *authenticator) isCutOff(site string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return time.Now().Before(a.cut[site])
}
