package remotewrite

import (
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/store"
)

// TestApply changes everything that may change while a writer is at work: the next batch has it.
func TestApply(t *testing.T) {
	old := newPeer(t, func(_ int, r *peerRequest, w http.ResponseWriter) {
		if r.v2 {
			w.WriteHeader(http.StatusUnsupportedMediaType)
			return
		}
		http.Error(w, "out of order sample", http.StatusBadRequest)
	})
	p := newPeer(t, nil)
	o := newOut(t, old.url, v2)
	live, backfill := o.NewSender(false), o.NewSender(true)
	for _, s := range []*Sender{live, backfill} {
		s.Row("a", o.row("k", sendStart, 1))
		expect(t, "lost", len(o.flush(s)), 1)
	}
	expect(t, "fallback", o.Status().Fallback, true)
	expect(t, "refuses", o.Status().RefusesBackfill, "out of order sample")

	// Another configuration of the same receiver: what is known of it holds on.
	o.apply(o.config(old.url, v2+"\nheaders: {X-Scope-OrgID: team}"))
	expect(t, "fallback", o.Status().Fallback, true)
	expect(t, "refuses", o.Status().RefusesBackfill, "out of order sample")
	live.Row("a", o.row("k", sendStart+1, 1))
	o.flush(live)
	all := old.all()
	expect(t, "X-Scope-OrgID", all[len(all)-1].header.Get("X-Scope-OrgID"), "team")

	// Another receiver, of which nothing is known. What a batch holds already has the old labels.
	live.Row("a", o.row("k", sendStart+2, 1))
	rules := store.DefaultConfig()
	rules.SiteLabel = "place"
	c := o.config(p.url, v2+"\nwrite_relabel_configs: [{target_label: more, replacement: x}]")
	c.Prometheus.QueueConfig.MaxShards = 3
	if err := o.Apply(c, labels.EmptyLabels(), rules); err != nil {
		t.Fatal(err)
	}
	expect(t, "fallback", o.Status().Fallback, false)
	expect(t, "refuses", o.Status().RefusesBackfill, "")
	expect(t, "lost", len(o.flush(live)), 0)
	expect(t, "labels", p.all()[0].samples[0].labels, `{__name__="x", hub="core", i="0", instance="k", job="j", site="a"}`)
	live.Row("a", o.row("k", sendStart+3, 1))
	expect(t, "lost", len(o.flush(live)), 0)
	expect(t, "labels", p.all()[1].samples[0].labels, `{__name__="x", i="0", instance="k", job="j", more="x", place="a"}`)
	expect(t, "message", p.all()[1].v2, true)
	expect(t, "shards", o.value("thalweg_remote_write_shards"), 3)

	// One that cannot be put in force changes nothing.
	c.Prometheus.HTTPClientConfig.TLSConfig.CAFile = "/nonexistent"
	if err := o.Apply(c, external, rules); err == nil || !strings.Contains(err.Error(), `remote write to "out"`) {
		t.Errorf("error %v", err)
	}
	live.Row("a", o.row("k", sendStart+4, 1))
	expect(t, "lost", len(o.flush(live)), 0)
	expect(t, "requests", len(p.all()), 3)
}

// TestClose leaves no metrics of a destination that is no more.
func TestClose(t *testing.T) {
	p := newPeer(t, nil)
	o := newOut(t, p.url, "")
	s := o.NewSender(false)
	s.Row("a", o.row("k", sendStart, 1))
	o.flush(s)
	o.Close()
	families, err := o.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		t.Errorf("%s is left", f.GetName())
	}
}
