package config

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/events"
)

// LoadGateway is Load for a process that is an event gateway, where change may change what the section says before it is
// checked. Without a file it has the defaults, and takes events from Redis; dataDir is relative to where the program runs
// then, as any file that change names.
func LoadGateway(file, dataDir string, change func(*events.Config) error) (*Config, error) {
	if file != "" {
		return loadWith(file, dataDir, func(c *Config) error {
			if c.Gateway == nil {
				return c.places.locate("", errors.New("the section gateway is not there; write gateway: {} to turn it on"))
			}
			return change(c.Gateway)
		})
	}
	c := DefaultConfig()
	gateway, redis := events.DefaultConfig(), events.DefaultRedisConfig()
	gateway.Redis = &redis
	c.Gateway = &gateway
	if err := change(c.Gateway); err != nil {
		return nil, err
	}
	if dataDir != "" {
		c.DataDir = dataDir
	}
	var err error
	if c.DataDir, err = filepath.Abs(c.DataDir); err != nil {
		return nil, err
	}
	return &c, c.Validate()
}

// EventsSubject is the subject of the events that the gateway takes from NATS.
func (c *Config) EventsSubject() string {
	root := c.eventsRoot()
	switch {
	case c.Gateway.NATS.Subject != "":
		return c.Gateway.NATS.Subject
	case c.Edge != nil && c.Hub == nil:
		return root.Events(c.Site)
	}
	return root.AllEvents()
}

func (c *Config) eventsRoot() bus.Root {
	if c.Hub != nil {
		return bus.Root(c.HubClient().SubjectRoot)
	}
	return bus.Root(c.NATS.Client.SubjectRoot)
}

// validateEvents finds what is wrong about events from NATS.
func (c *Config) validateEvents() error {
	if c.Gateway.NATS == nil {
		return nil
	}
	root := c.eventsRoot()
	if _, err := root.ParseEvents(c.EventsSubject()); err != nil {
		return fmt.Errorf("nats.subject: %q is neither %s, for all sites, nor %s", c.Gateway.NATS.Subject, root.AllEvents(), root.Events("SITE"))
	}
	return nil
}
