package config

import (
	"errors"

	"github.com/thalweg/thalweg/internal/natsmon"
)

// LoadNATSExporter is Load for a process that is an exporter of NATS metrics, where change may change what the section
// says before it is checked. Without a file the section has the defaults; files that change names are relative to where
// the program runs then.
func LoadNATSExporter(file string, change func(*natsmon.Config)) (*Config, error) {
	if file != "" {
		return loadWith(file, "", func(c *Config) error {
			if c.NATSExporter == nil {
				return c.places.locate("", errors.New("the section nats_exporter is not there; write nats_exporter: {} to turn it on"))
			}
			change(c.NATSExporter)
			return nil
		})
	}
	exporter := natsmon.DefaultConfig()
	change(&exporter)
	c := DefaultConfig()
	c.NATSExporter = &exporter
	return &c, c.Validate()
}

// completeNATSExporter turns nats_exporter.embedded off where no server runs in this process, unless the file says that it
// is on.
func (c *Config) completeNATSExporter() {
	e := c.NATSExporter
	if e == nil {
		return
	}
	if _, written := c.places["nats_exporter.embedded"]; !written && c.Embedded() == nil {
		e.Embedded = false
	}
	if len(e.Servers) == 0 {
		e.Servers = nil
	}
	if len(e.System) == 0 {
		e.System = nil
	}
}

func (c *Config) validateNATSExporter() error {
	e := c.NATSExporter
	err := e.Validate()
	switch here := c.Embedded() != nil; {
	case e.Embedded && !here:
		err = errors.Join(errors.New("embedded: is true, but no NATS server runs in this process; see nats.embedded"), err)
	case !e.Embedded && len(e.Servers)+len(e.System) == 0 && here:
		err = errors.Join(errors.New("embedded: is false, and nothing else is to be read; set servers or system"), err)
	case !e.Embedded && len(e.Servers)+len(e.System) == 0:
		err = errors.Join(errors.New("nothing to read, as no NATS server runs in this process; set servers or system"), err)
	}
	return err
}
