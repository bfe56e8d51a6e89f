package hub

import (
	"fmt"
	"slices"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/pipeline"
)

// Views says who may read what. Nil means that everybody may read everything.
type Views struct{ users map[string]Sight }

// Sight is what one user may read: what one of the sets of matchers selects, which is nothing if there are none.
type Sight [][]*labels.Matcher

// NewViews prepares the views of a configuration.
func NewViews(views []View) (*Views, error) {
	if len(views) == 0 {
		return nil, nil
	}
	v := &Views{users: map[string]Sight{}}
	for i, view := range views {
		sets, err := pipeline.ParseMatch(view.Match)
		if err != nil {
			return nil, fmt.Errorf("views[%d]: %w", i, err)
		}
		for _, user := range view.Users {
			v.users[user] = append(v.users[user], sets...)
		}
	}
	return v, nil
}

// Of returns what a user may read, who is nobody if the name is empty. It is not limited if there are no views.
func (v *Views) Of(user string) (sight Sight, limited bool) {
	if v == nil {
		return nil, false
	}
	return v.users[user], true
}

// SeesAll reports whether a selector is there that is plainly no limit, such as {__name__!=""}.
func (s Sight) SeesAll() bool {
	return slices.ContainsFunc(s, func(selector []*labels.Matcher) bool {
		return !slices.ContainsFunc(selector, func(m *labels.Matcher) bool { return m.String() != `__name__!=""` && m.String() != `__name__=~".+"` })
	})
}

// SeesSource reports whether there may be series with these labels, of which the site label is one, in sight. The
// other labels of the series are taken to be absent, and any name to be there.
func (s Sight) SeesSource(ls labels.Labels) bool {
	return s.sees(func(m *labels.Matcher) bool { return m.Name == model.MetricNameLabel || m.Matches(ls.Get(m.Name)) })
}

// SeesSite reports whether there may be series of a site in sight.
func (s Sight) SeesSite(siteLabel, site string) bool {
	return s.sees(func(m *labels.Matcher) bool { return m.Name != siteLabel || m.Matches(site) })
}

func (s Sight) sees(matches func(*labels.Matcher) bool) bool {
	for _, set := range s {
		all := len(set) > 0
		for _, m := range set {
			all = all && matches(m)
		}
		if all {
			return true
		}
	}
	return false
}
