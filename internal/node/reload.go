package node

import (
	"context"
	"fmt"
	"time"

	"github.com/thalweg/thalweg/internal/config"
	"github.com/thalweg/thalweg/internal/hub"
)

// reloader returns Reload, or nil where there is no file to load.
func (n *Node) reloader() func(context.Context) error {
	if n.options.Load == nil {
		return nil
	}
	return n.Reload
}

// Reload loads the configuration anew and puts it in force, without losing a row. After an error the old one is still
// in force, and a metric and the log say so. Keys that need a restart are left as they are and named.
func (n *Node) Reload(ctx context.Context) error {
	err := n.reload(ctx)
	n.metrics.Loaded(time.Now(), err)
	if err != nil {
		n.log.Error("configuration was not reloaded; the old one stays in force", "err", err)
		return err
	}
	return nil
}

func (n *Node) reload(ctx context.Context) error {
	n.reloading.Lock()
	defer n.reloading.Unlock()
	wanted, err := n.options.Load()
	if err != nil {
		return err
	}
	running := n.current()
	rest := config.NeedsRestart(n.options.Config, wanted)
	if (running.Hub == nil) != (wanted.Hub == nil) || (running.Edge == nil) != (wanted.Edge == nil) ||
		(running.Gateway == nil) != (wanted.Gateway == nil) || (running.NATSExporter == nil) != (wanted.NATSExporter == nil) {
		n.note(rest)
		return fmt.Errorf("roles changed, which needs a restart: %v", rest)
	}
	// What may fail for what stands in other files comes first, so that nothing has changed then.
	var views *hub.Views
	if n.hub != nil {
		if views, err = n.hub.newViews(wanted); err != nil {
			return fmt.Errorf("apply to hub: %w", err)
		}
	}
	var uses []func()
	prepare := func(key string, f func() (use func(), err error)) {
		if err == nil {
			use, failed := f()
			if uses = append(uses, use); failed != nil {
				err = fmt.Errorf("apply to %s: %w", key, failed)
			}
		}
	}
	if n.telemeter != nil && wanted.Hub.Telemeter != nil {
		prepare("hub.telemeter", func() (func(), error) { return n.telemeter.prepare(wanted) })
	}
	if n.edge != nil && n.edge.receiver != nil {
		prepare("edge.receive", func() (func(), error) { return n.edge.receiver.prepare(wanted, &wanted.Edge.Receive) })
	}
	if n.hub != nil && n.hub.receiver != nil {
		prepare("hub.receive", func() (func(), error) { return n.hub.receiver.prepare(wanted, &wanted.Hub.Receive) })
	}
	if n.hub != nil {
		defer n.hub.outputs.abandon()
		prepare("outputs of the hub", func() (func(), error) { return n.hub.outputs.prepare(wanted) })
	}
	if err != nil {
		return err
	}
	if n.server != nil {
		if err := n.server.Reload(); err != nil {
			return fmt.Errorf("apply to NATS server: %w", err)
		}
	}
	if n.edge != nil {
		if err := n.edge.apply(ctx, wanted); err != nil {
			return fmt.Errorf("apply to edge: %w", err)
		}
	}
	if n.hub != nil {
		n.use(wanted) // limits of the store come from there
		if err := n.hub.apply(wanted, views); err != nil {
			n.use(running)
			return fmt.Errorf("apply to hub: %w", err)
		}
	}
	if n.gateway != nil {
		n.gateway.apply(wanted)
	}
	for _, use := range uses {
		use()
	}
	n.use(wanted)
	n.note(rest)
	if len(rest) > 0 {
		n.log.Warn("configuration reloaded, but some keys need a restart", "keys", rest)
		return nil
	}
	n.log.Info("configuration reloaded")
	return nil
}

func (n *Node) current() *config.Config {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.config
}

func (n *Node) use(c *config.Config) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.config = c
}

func (n *Node) note(keys []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.notes = nil
	for _, k := range keys {
		n.notes = append(n.notes, "the file has another "+k+", which needs a restart")
	}
}
