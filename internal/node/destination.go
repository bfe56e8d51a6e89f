package node

import (
	"sync"

	"github.com/thalweg/thalweg/internal/config"
	"github.com/thalweg/thalweg/internal/hub"
	"github.com/thalweg/thalweg/internal/push"
	"github.com/thalweg/thalweg/internal/remotewrite"
)

// destination is where an output delivers to, over its restarts. It is safe for concurrent use.
type destination interface {
	// open completes the options of an output that is about to run.
	open(o *hub.OutputOptions) error
	// check returns the error with which apply would fail, as far as that can be known.
	check(c *config.Config) error
	// apply puts another configuration in force.
	apply(c *config.Config) error
	status() destinationStatus
	// close forgets it. Its output has ended.
	close()
}

type destinationStatus struct {
	kind, url string
	problem   string   // what is wrong at the moment, "" if nothing is
	notes     []string // what people should know of it besides
}

// destinations returns what makes each destination that a configuration names.
func (o *outputs) destinations(c *config.Config) map[string]func() (destination, error) {
	all := map[string]func() (destination, error){}
	for i := range c.Hub.RemoteWrite {
		element := &c.Hub.RemoteWrite[i]
		all[element.OutputName()] = func() (destination, error) { return o.newWriter(c, element) }
	}
	if p := c.Hub.Pushgateway; p != nil {
		all[hub.PushgatewayOutput] = func() (destination, error) { return newPusher(o.node, c) }
	}
	return all
}

// writer is an element of hub.remote_write.
type writer struct {
	*remotewrite.Writer
	outputs *outputs
	name    string
	oldest  bool
}

func (o *outputs) newWriter(c *config.Config, element *remotewrite.Config) (destination, error) {
	w, err := remotewrite.NewWriter(o.writerOptions(c, element, o.metrics))
	if err != nil {
		return nil, err
	}
	return &writer{Writer: w, outputs: o, name: element.OutputName(), oldest: element.Start == remotewrite.StartOldest}, nil
}

func (o *outputs) writerOptions(c *config.Config, element *remotewrite.Config, metrics *remotewrite.SendMetrics) remotewrite.WriterOptions {
	return remotewrite.WriterOptions{
		Config: *element, ExternalLabels: c.Global.ExternalLabels, Store: c.Hub.Store, Version: o.node.options.Version,
		Metrics: metrics, Logger: o.log.With("component", "remote_write"),
	}
}

func (w *writer) open(o *hub.OutputOptions) error {
	o.Kind, o.Oldest, o.Ends = "remote write", w.oldest, true
	o.Live, o.Backfill = w.NewSender(false), w.NewSender(true)
	return nil
}

// element returns that of the same name; nil if there is none.
func (w *writer) element(c *config.Config) *remotewrite.Config {
	for i := range c.Hub.RemoteWrite {
		if e := &c.Hub.RemoteWrite[i]; e.OutputName() == w.name {
			return e
		}
	}
	return nil
}

func (w *writer) check(c *config.Config) error {
	trial, err := remotewrite.NewWriter(w.outputs.writerOptions(c, w.element(c), remotewrite.NewSendMetrics()))
	if err == nil {
		trial.Close()
	}
	return err
}

func (w *writer) apply(c *config.Config) error {
	return w.Apply(*w.element(c), c.Global.ExternalLabels, c.Hub.Store)
}

func (w *writer) status() destinationStatus {
	s := w.Status()
	d := destinationStatus{kind: "remote write " + s.Message, url: s.URL}
	if s.Error != nil {
		d.problem = s.Error.Error()
	}
	if s.Fallback {
		d.notes = append(d.notes, "it does not understand 2.0 and is sent 1.0")
	}
	if s.RefusesBackfill != "" {
		d.notes = append(d.notes, "it takes nothing that is late: "+s.RefusesBackfill)
	}
	return d
}

func (w *writer) close() { w.Close() }

// pusher is hub.pushgateway.
type pusher struct {
	node    *Node
	metrics *push.ClientMetrics

	mu     sync.Mutex
	config push.ClientConfig
	client *push.Client // of the last run of the output; nil before
}

func newPusher(n *Node, c *config.Config) (destination, error) {
	p := &pusher{node: n, metrics: push.NewClientMetrics(hub.PushgatewayOutput), config: *c.Hub.Pushgateway}
	return p, p.check(c)
}

// open makes another client: what the last one held is handed out again.
func (p *pusher) open(o *hub.OutputOptions) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	client, err := p.newClient(p.config)
	if err != nil {
		return err
	}
	if p.client == nil {
		p.node.metrics.MustRegister(p.metrics.Metrics()...)
	}
	p.client = client
	o.Kind, o.Live = "Push Gateway", client
	return nil
}

func (p *pusher) newClient(c push.ClientConfig) (*push.Client, error) {
	return push.NewClient(push.ClientOptions{Config: c, Name: hub.PushgatewayOutput, Metrics: p.metrics, Logger: p.node.log.With("component", "push")})
}

func (p *pusher) check(c *config.Config) error {
	_, err := p.newClient(*c.Hub.Pushgateway)
	return err
}

func (p *pusher) apply(c *config.Config) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.config = *c.Hub.Pushgateway
	if p.client == nil {
		return nil
	}
	return p.client.Apply(p.config)
}

func (p *pusher) status() destinationStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := destinationStatus{kind: "Push Gateway", url: p.config.URL}
	if p.client != nil {
		if err := p.client.Problem(); err != nil {
			d.problem = err.Error()
		}
	}
	return d
}

func (p *pusher) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.client == nil {
		return
	}
	for _, m := range p.metrics.Metrics() {
		p.node.metrics.Unregister(m)
	}
}
