package hub

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/bits"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// announceEvery is how often a hub says that it is there, and changeEvery how often it looks whether that what it
	// says has changed.
	announceEvery = 2 * time.Second
	changeEvery   = 250 * time.Millisecond
	// peerSilence is after how much silence another hub counts as gone.
	peerSilence = 3*announceEvery + time.Second
	// listenFirst is how long a hub listens before it says who else there is.
	listenFirst = announceEvery + time.Second
	// maxPeers bounds the hubs that are remembered.
	maxPeers = 1000
)

// Peer is a hub of the same system, this one or another.
type Peer struct {
	Name string `json:"hub"`
	// Instance is of one process.
	Instance string `json:"instance"`
	// URL of its web listener, for Prometheus.
	URL   string `json:"url"`
	Parts Parts  `json:"parts"`
	// Ready: it has read the stream up to its head, and can read on.
	Ready bool `json:"ready"`
	// Gone is said by a process that ends.
	Gone bool `json:"gone,omitempty"`
}

// peers is what this hub knows of the others. Hubs tell each other over the subject that the sites' account does not
// reach, and keep nothing.
type peers struct {
	hub *Hub
	url string

	mu        sync.Mutex
	listening time.Time // since when; zero: not at all
	deaf      error     // why not, other than for want of a connection
	heard     map[string]heardPeer
}

type heardPeer struct {
	Peer
	at time.Time
}

func newPeers(h *Hub, url string) *peers {
	return &peers{hub: h, url: url, heard: map[string]heardPeer{}}
}

// run listens and announces until ctx ends.
func (p *peers) run(ctx context.Context) {
	subject := p.hub.conn.Root().Hubs()
	var stop func()
	defer func() {
		if stop != nil {
			stop()
		}
	}()
	t := time.NewTicker(changeEvery)
	defer t.Stop()
	var said Peer
	var at time.Time
	for {
		if stop == nil {
			stop = p.listen(subject)
		}
		now := p.hub.now()
		state, _ := p.hub.conn.Watch()
		p.connected(state.Connected && stop != nil, now)
		if self := p.self(); self != said || now.Sub(at) >= announceEvery {
			if p.tell(subject, self) {
				said, at = self, now
			}
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			self := p.self()
			self.Ready, self.Gone = false, true
			p.tell(subject, self)
			return
		}
	}
}

// listen returns what ends it, or nil if it is not possible at the moment.
func (p *peers) listen(subject string) (stop func()) {
	stop, err := p.hub.conn.Serve(subject, func(_ string, data []byte) []byte {
		p.hear(data)
		return nil
	})
	if err != nil {
		p.hub.repeats.Log(slog.LevelError, "listen", "cannot listen for other hubs", slog.Any("err", err))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deaf = err
	return stop
}

// connected starts the time of listening anew with each connection: what others said meanwhile was not heard.
func (p *peers) connected(is bool, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case !is:
		p.listening = time.Time{}
	case p.listening.IsZero():
		p.listening = now
	}
}

// tell reports whether the announcement went out. Without a connection it does not, which others take for silence.
func (p *peers) tell(subject string, self Peer) bool {
	data, err := json.Marshal(self)
	if err != nil {
		panic("BUG: hub: encode announcement: " + err.Error())
	}
	if err := p.hub.conn.Tell(subject, data); err != nil {
		p.hub.log.Debug("announce to other hubs", "err", err)
		return false
	}
	return true
}

func (p *peers) self() Peer {
	config, _ := p.hub.configured()
	ready := p.hub.Problem() == ""
	select {
	case <-p.hub.CaughtUp():
	default:
		ready = false
	}
	return Peer{Name: p.hub.name, Instance: p.hub.control.instance, URL: p.url, Parts: config.Parts, Ready: ready}
}

func (p *peers) hear(data []byte) {
	var peer Peer
	err := json.Unmarshal(data, &peer)
	if err == nil && peer.Instance == "" {
		err = errors.New("it names no instance")
	}
	if err != nil {
		p.hub.repeats.Log(slog.LevelWarn, "announcement", "announcement of another hub cannot be read", slog.Any("err", err))
		return
	}
	if peer.Instance == p.hub.control.instance {
		return
	}
	now := p.hub.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forget(now)
	if peer.Gone {
		delete(p.heard, peer.Instance)
		return
	}
	if _, known := p.heard[peer.Instance]; known || len(p.heard) < maxPeers {
		p.heard[peer.Instance] = heardPeer{peer, now}
	}
}

// forget is used with mu held.
func (p *peers) forget(now time.Time) {
	maps.DeleteFunc(p.heard, func(_ string, h heardPeer) bool { return now.Sub(h.at) > peerSilence })
}

// all returns the hubs that are there, this one included, by name.
func (p *peers) all() []Peer {
	list := []Peer{p.self()}
	p.mu.Lock()
	p.forget(p.hub.now())
	for _, h := range p.heard {
		list = append(list, h.Peer)
	}
	p.mu.Unlock()
	slices.SortFunc(list, byName)
	return list
}

func byName(a, b Peer) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Instance, b.Instance))
}

// settled returns why this hub cannot tell who else there is.
func (p *peers) settled() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.deaf != nil:
		return fmt.Errorf("listen for other hubs: %w", p.deaf)
	case p.listening.IsZero():
		return errors.New("there is no connection to NATS")
	case p.hub.now().Sub(p.listening) < listenFirst:
		return errors.New("still listening who else is there")
	}
	return nil
}

// Peers returns all hubs that said within the last seven seconds that they are there, and this one, by name.
func (h *Hub) Peers() []Peer { return h.peers.all() }

// Serving picks from all hubs those that Prometheus should take from, so that it gets each part of the sites once: all
// hubs pick the same ones. Uncovered are the parts that no hub has which is ready and overlaps none of the picked. An
// error means that it cannot be said at the moment; what was picked before should be kept then.
func (h *Hub) Serving() (picked []Peer, uncovered Parts, err error) {
	if err := h.peers.settled(); err != nil {
		return nil, AllParts, err
	}
	picked, uncovered = pick(h.peers.all())
	if len(picked) == 0 {
		return nil, AllParts, errors.New("no hub is ready")
	}
	return picked, uncovered, nil
}

// collectors of what this hub knows of the others.
func (p *peers) collectors() []prometheus.Collector {
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "thalweg_hub_" + name, Help: help}, value)
	}
	return []prometheus.Collector{
		gauge("peers", "Hubs that are there, this one included.", func() float64 { return float64(len(p.all())) }),
		gauge("uncovered_parts", "Parts of the sites that no ready hub has, or only one that overlaps others.", func() float64 {
			_, uncovered := pick(p.all())
			return float64(bits.OnesCount64(uint64(uncovered)))
		}),
	}
}

// pick takes the hubs with the most parts first and, of those with equally many, the one whose name comes first, unless
// it has a part that is taken already.
func pick(all []Peer) (picked []Peer, uncovered Parts) {
	candidates := slices.DeleteFunc(slices.Clone(all), func(p Peer) bool { return !p.Ready || p.Parts == 0 })
	slices.SortFunc(candidates, func(a, b Peer) int {
		return cmp.Or(bits.OnesCount64(uint64(b.Parts))-bits.OnesCount64(uint64(a.Parts)), byName(a, b))
	})
	uncovered = AllParts
	for _, p := range candidates {
		if p.Parts&^uncovered == 0 {
			picked = append(picked, p)
			uncovered &^= p.Parts
		}
	}
	slices.SortFunc(picked, byName)
	return picked, uncovered
}
