package node

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/config"
	"github.com/thalweg/thalweg/internal/hub"
	"github.com/thalweg/thalweg/internal/web"
)

// newViews prepares the views of a configuration. They are worth nothing if people need not say who they are.
func (r *hubRole) newViews(c *config.Config) (*hub.Views, error) {
	views, err := hub.NewViews(c.Hub.Views)
	if err != nil {
		return nil, fmt.Errorf("set up views: %w", err)
	}
	if views == nil {
		return nil, nil
	}
	users, err := config.WebUsers(r.node.options.WebConfigFile)
	if err != nil {
		return nil, err
	}
	if len(users) == 0 {
		return nil, errors.New("hub.views: nobody has to log in, give --web.config.file with basic_auth_users")
	}
	for _, view := range c.Hub.Views {
		for _, user := range view.Users {
			if !users[user] {
				r.node.log.Warn("view of a user who cannot log in", "user", user, "users", slices.Sorted(maps.Keys(users)))
			}
		}
	}
	return views, nil
}

// sight returns what the sender of a request may read. His name counts only if his password had to be right, which the
// web configuration file says, and it may have changed since it was read last.
func (r *hubRole) sight(req *http.Request) (hub.Sight, bool) {
	views := r.views.Load()
	if views == nil {
		return nil, false
	}
	user, _, _ := req.BasicAuth()
	if users, err := config.WebUsers(r.node.options.WebConfigFile); err != nil || !users[user] {
		if err != nil {
			r.node.log.Error("user of a request is not known", "err", err)
		}
		user = ""
	}
	return views.Of(user)
}

// federateView is sight as /federate wants it.
func (r *hubRole) federateView(req *http.Request) ([][]*labels.Matcher, bool) { return r.sight(req) }

// narrow leaves in a status what the sender of a request may read. What is not of a site is there for everybody.
func (n *Node) narrow(req *http.Request, s web.Status) web.Status {
	if n.hub == nil {
		return s
	}
	sight, limited := n.hub.sight(req)
	if !limited {
		return s
	}
	siteLabel := n.current().Hub.Store.SiteLabel
	hidden := func(site string) bool { return !sight.SeesSite(siteLabel, site) }
	all := s
	s.Sites = func() []web.Site {
		sites := slices.DeleteFunc(all.Sites(), func(x web.Site) bool { return hidden(x.Name) })
		for i := range sites {
			sites[i].Offenders = nil // names of metrics that may be out of sight
		}
		return sites
	}
	s.Lanes = func() []web.Lane {
		return slices.DeleteFunc(all.Lanes(), func(x web.Lane) bool { return hidden(x.Site) })
	}
	s.Gaps = func() []web.Gap {
		return slices.DeleteFunc(all.Gaps(), func(x web.Gap) bool { return hidden(x.Site) })
	}
	s.Outputs = func() []web.Output {
		list := all.Outputs()
		for i := range list { // what receivers say names series, and counts are those of all sites
			x := &list[i]
			*x = web.Output{Name: x.Name, Kind: x.Kind, State: x.State, Holder: x.Holder, HeldBy: x.HeldBy}
		}
		return list
	}
	s.OutputGaps = func(name string) ([]web.Gap, bool) {
		gaps, ok := all.OutputGaps(name)
		return slices.DeleteFunc(gaps, func(x web.Gap) bool { return hidden(x.Site) }), ok
	}
	s.Account = func() web.Account { return n.accountOf(func(site string) bool { return !hidden(site) }) }
	s.Sources = func(site string) []web.Source {
		return slices.DeleteFunc(all.Sources(site), func(x web.Source) bool {
			b := labels.NewBuilder(labels.FromMap(x.Labels))
			return !sight.SeesSource(b.Set(siteLabel, x.Site).Labels())
		})
	}
	s.Pushed = nil // of all sites
	if all.Targets != nil && hidden(n.options.Config.Site) {
		s.Targets = nil
	}
	return s
}
