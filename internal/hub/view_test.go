package hub

import (
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
)

func TestViews(t *testing.T) {
	none, err := NewViews(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, limited := none.Of("anybody"); limited {
		t.Error("without views, somebody is limited")
	}
	views, err := NewViews([]View{
		{Users: []string{"alice", "bob"}, Match: []string{`{site=~"a.*"}`}},
		{Users: []string{"bob"}, Match: []string{`node_load{site="b",job="node"}`, "up"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	f := func(user string, sets int, sites, sources string) {
		t.Helper()
		sight, limited := views.Of(user)
		if !limited || len(sight) != sets {
			t.Errorf("%s: %d sets, limited %t", user, len(sight), limited)
		}
		var seen []string
		for _, site := range []string{"a1", "b", "c"} {
			if sight.SeesSite("site", site) {
				seen = append(seen, site)
			}
		}
		if got := strings.Join(seen, " "); got != sites {
			t.Errorf("%s sees sites %q, want %q", user, got, sites)
		}
		seen = nil
		for _, ls := range []labels.Labels{
			labels.FromStrings("site", "a1", "job", "x"), labels.FromStrings("site", "b", "job", "x"), labels.FromStrings("site", "b", "job", "node"),
		} {
			if sight.SeesSource(ls) {
				seen = append(seen, ls.Get("site")+"/"+ls.Get("job"))
			}
		}
		if got := strings.Join(seen, " "); got != sources {
			t.Errorf("%s sees sources %q, want %q", user, got, sources)
		}
	}
	f("alice", 1, "a1", "a1/x")
	f("bob", 3, "a1 b c", "a1/x b/x b/node")
	f("mallory", 0, "", "")
	f("", 0, "", "")
	if _, err := NewViews([]View{{Users: []string{"a"}, Match: []string{"{"}}}); err == nil {
		t.Error("a bad selector was accepted")
	}
}

func TestSightOfEverything(t *testing.T) {
	f := func(want bool, selectors ...string) {
		t.Helper()
		views, err := NewViews([]View{{Users: []string{"a"}, Match: selectors}})
		if err != nil {
			t.Fatal(err)
		}
		if sight, _ := views.Of("a"); sight.SeesAll() != want {
			t.Errorf("%q sees all: %t", selectors, !want)
		}
	}
	f(true, `{__name__!=""}`)
	f(true, `{__name__=~".+"}`)
	f(true, `up`, `{__name__!=""}`)
	f(false, `up`)
	f(false, `{__name__!="",site="a"}`)
	f(false, `{__name__=~"a.+"}`)
	if Sight(nil).SeesAll() {
		t.Error("who sees nothing sees all")
	}
}
