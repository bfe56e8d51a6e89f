package node

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/thalweg/thalweg/internal/edge"
	"github.com/thalweg/thalweg/internal/hub"
	"github.com/thalweg/thalweg/internal/lane"
	"github.com/thalweg/thalweg/internal/store"
	"github.com/thalweg/thalweg/internal/web"
)

const (
	// conditionEvery is how often the conditions are looked at where nothing tells that they changed, tendEvery how often it
	// is done what is due at an edge.
	conditionEvery = time.Second
	tendEvery      = 15 * time.Second
	// resetShown is how long the page says that the stream was another one.
	resetShown = 24 * time.Hour
	// maxGapsShown bounds what a page or an answer lists.
	maxGapsShown = 10_000
)

// keepConditions keeps what /-/ready says in line with the parts, until ctx ends.
func (n *Node) keepConditions(ctx context.Context) error {
	t := time.NewTicker(conditionEvery)
	defer t.Stop()
	tended := time.Now()
	var caughtUp <-chan struct{} // so that a hub is ready as soon as it can be
	if n.hub != nil {
		caughtUp = n.hub.hub.CaughtUp()
	}
	for {
		problems := n.setConditions()
		if now := time.Now(); n.edge != nil && now.Sub(tended) >= tendEvery {
			tended = now
			n.edge.tend(now)
		}
		select {
		case <-t.C:
		case <-problems:
		case <-caughtUp:
			caughtUp = nil // it stays closed
		case <-ctx.Done():
			return nil
		}
	}
}

// setConditions returns a channel that is closed when the problems of the edge are others.
func (n *Node) setConditions() (changed <-chan struct{}) {
	if n.hub != nil {
		c := n.health.Condition("hub")
		switch problem := n.hub.hub.Problem(); {
		case problem != "":
			c.NotReady(problem)
		case !n.hub.caughtUp():
			c.NotReady("reading the stream up to its head")
		default:
			c.Ready()
		}
		n.hub.outputs.setCondition()
	}
	if n.edge != nil {
		// An edge does its work without a link: rows are kept in the outbox. People should know all the same.
		c := n.health.Condition("edge")
		var amiss []string
		var problems []edge.Problem
		problems, changed = n.edge.edge.WatchProblems()
		for _, p := range problems {
			if p.Part != edge.PartHello {
				amiss = append(amiss, p.Part+": "+strings.Join(strings.Fields(p.Reason), " "))
			}
		}
		if len(amiss) > 0 {
			c.Degraded(strings.Join(amiss, "; ") + " (" + kept(problems) + ")")
		} else {
			c.Ready()
		}
	}
	return changed
}

// kept says what becomes of the rows of an edge with problems.
func kept(problems []edge.Problem) string {
	has := func(part string) bool {
		return slices.ContainsFunc(problems, func(p edge.Problem) bool { return p.Part == part })
	}
	switch {
	case has(edge.PartOutbox):
		return "rows that come now are lost"
	case has(edge.PartBacklog):
		return "newer rows are kept in the outbox"
	}
	return "rows are kept in the outbox"
}

// webStatus gives the pages and the JSON API what they show.
func (n *Node) webStatus() web.Status {
	s := web.Status{Process: n.process, Sources: n.sources, Lanes: n.lanes}
	if n.hub != nil {
		s.Sites, s.Gaps, s.Account = n.sites, n.gaps, n.account
		s.Outputs, s.OutputGaps = n.outputs, n.outputGaps
	}
	if n.edge != nil {
		s.Targets, s.Outbox = n.targets, n.outbox
	}
	if len(n.gateways()) > 0 {
		s.Pushed = n.pushed
	}
	return s
}

// gateways are the receivers that hold pushed groups.
func (n *Node) gateways() (list []*receiver) {
	if n.edge != nil && n.edge.receiver != nil && n.edge.receiver.gateway != nil {
		list = append(list, n.edge.receiver)
	}
	if n.hub != nil && n.hub.receiver != nil && n.hub.receiver.gateway != nil {
		list = append(list, n.hub.receiver)
	}
	return list
}

func (n *Node) pushed() (list []web.Pushed) {
	for _, r := range n.gateways() {
		s := r.gateway.Stats()
		list = append(list, web.Pushed{Role: string(r.role), Groups: s.Groups, Metrics: s.Series, Bytes: s.Bytes})
	}
	return list
}

func (n *Node) process() web.Process {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := web.Process{
		Version: n.options.Version, Site: n.options.Config.Site, Roles: n.roles(), Started: n.started, Notes: slices.Clone(n.notes),
	}
	if n.hub != nil {
		if r := n.hub.hub.LastReset(); time.Since(r.At) < resetShown {
			p.Notes = append(p.Notes, fmt.Sprintf("At %s the stream turned out not to be the one that was read (%s: %s). "+
				"What the server has lost comes again from edges that still hold it.", r.At.UTC().Format(time.DateTime+" UTC"), r.Reason, r.Detail))
		}
	}
	return p
}

func (n *Node) sites() []web.Site {
	held := map[string]store.SiteStats{}
	for _, s := range n.hub.store.Sites() {
		held[s.Name] = s
	}
	var list []web.Site
	for _, s := range n.hub.hub.Sites() {
		x := web.Site{
			Name: s.Name, Part: uint32(s.Part), Expected: s.Expected, LastRow: s.LastRow, Gaps: s.Missing.Gaps, MissingRows: s.Missing.Total(),
			Sources: held[s.Name].Sources, Series: held[s.Name].Series, Version: s.Version, SkewSeconds: s.Skew.Seconds(),
			Samples: s.Samples, Bytes: s.Bytes, State: string(s.State),
			RefusedSeries: s.Usage.Held, Refused: s.Refused(), Offenders: s.Usage.Offenders(),
		}
		if s.Newest.Number != 0 {
			x.Epoch = s.Newest.Epoch.String()
		}
		list = append(list, x)
	}
	return list
}

func (n *Node) gaps() []web.Gap {
	var list []web.Gap
	for _, g := range n.hub.hub.Gaps(maxGapsShown) {
		list = append(list, webGap(g))
	}
	return list
}

// outputGaps lists those of an output.
func (n *Node) outputGaps(name string) (list []web.Gap, ok bool) {
	gaps, ok := n.hub.hub.OutputGaps(name, maxGapsShown)
	for _, g := range gaps {
		x := webGap(g)
		x.Output = name
		list = append(list, x)
	}
	return list, ok
}

func (n *Node) outputs() []web.Output {
	var list []web.Output
	for _, st := range n.hub.hub.Outputs() {
		x := web.Output{
			Name: st.Name, Kind: st.Kind, Holder: st.Holder, HeldBy: st.HeldBy, State: outputState(&st),
			Live: webFeed(&st.Live), Backfill: webFeed(&st.Backfill), Gaps: st.Missing.Gaps, MissingRows: st.Missing.Total(),
			LastError: st.LastError, LastErrorAt: st.LastErrorAt, Errors: st.Errors,
		}
		if d := n.hub.outputs.destination(st.Name); d != nil {
			s := d.status()
			x.Kind, x.URL, x.Notes, x.Problem = s.kind, s.url, s.notes, n.hub.outputs.problem(&st)
		}
		list = append(list, x)
	}
	return list
}

func outputState(st *hub.OutputStatus) string {
	switch {
	case !st.Running:
		return "begins again"
	case st.Holder:
		return "delivers"
	case st.HeldBy != "":
		return "stands by for hub " + st.HeldBy
	}
	return "finds out who delivers"
}

func webFeed(f *hub.FeedStatus) web.Feed {
	return web.Feed{
		LagSeconds: f.Lag.Seconds(), Behind: f.Behind, WaitingRows: f.Waiting, Newest: f.Newest, Rows: f.Rows, Samples: f.Samples, Refused: f.Refused,
	}
}

func webGap(g hub.SiteGap) web.Gap {
	return web.Gap{
		Site: g.Site, Epoch: g.Epoch.String(), From: time.UnixMilli(g.First), To: time.UnixMilli(g.Last), Rows: g.Rows,
		Cause: g.Cause.String(), Fillable: g.Cause == lane.NotArrived, FirstFrame: g.Gap.From, LastFrame: g.Gap.To,
	}
}

func (n *Node) account() web.Account { return n.accountOf(nil) }

func (n *Node) accountOf(sees func(site string) bool) web.Account {
	a := n.hub.hub.Account(sees)
	x := web.Account{Since: a.Since, Complete: a.Complete, MissingRows: map[string]uint64{}}
	for _, c := range lane.Causes() {
		x.MissingRows[c.String()] = a.Missing.Rows[c]
	}
	return x
}

func (n *Node) sources(site string) []web.Source {
	var from *store.Store
	switch {
	case n.hub != nil:
		from = n.hub.store
	case n.edge != nil && n.edge.store != nil:
		from = n.edge.store
	default:
		return nil
	}
	var names []string
	if site != "" {
		names = []string{site}
	} else {
		for _, s := range from.Sites() {
			names = append(names, s.Name)
		}
	}
	var list []web.Source
	for _, name := range names {
		for _, s := range from.Sources(name) {
			list = append(list, web.Source{
				Site: name, Key: s.Key, Labels: s.Labels.Map(), Series: s.Series, LastRow: time.UnixMilli(s.LastRow),
				IntervalSeconds: s.Interval.Seconds(),
			})
		}
	}
	return list
}

func (n *Node) targets() []web.Target {
	var list []web.Target
	for _, t := range n.edge.scrape.Targets() {
		x := web.Target{
			Job: t.Job, URL: t.URL, Health: string(t.Health), LastScrape: t.LastScrape, Duration: t.Duration, Samples: t.Samples,
		}
		if t.Err != nil {
			x.Error = t.Err.Error()
		}
		list = append(list, x)
	}
	return list
}
