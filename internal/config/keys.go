package config

import (
	"errors"
	"fmt"
	"os"

	"github.com/thalweg/thalweg/internal/pipeline"
)

// Anonymizer reads the key of edge.anonymize. It is nil if nothing is anonymised.
func (c *Config) Anonymizer() (*pipeline.Anonymizer, error) {
	return c.anonymizer("edge.anonymize.key_file", func(a *pipeline.AnonymizeConfig) string { return a.KeyFile })
}

// PreviousAnonymizer reads the key that was in force before; nil if there is none.
func (c *Config) PreviousAnonymizer() (*pipeline.Anonymizer, error) {
	return c.anonymizer("edge.anonymize.previous_key_file", func(a *pipeline.AnonymizeConfig) string { return a.PreviousKeyFile })
}

func (c *Config) anonymizer(key string, file func(*pipeline.AnonymizeConfig) string) (*pipeline.Anonymizer, error) {
	if c.Edge == nil {
		return nil, nil
	}
	settings := &c.Edge.Pipeline.Anonymize
	path := file(settings)
	if path == "" || len(settings.Labels) == 0 {
		return nil, nil
	}
	fail := func(err error) error {
		at := c.places.find(key)
		return &Error{Line: at.line, Column: at.column, Key: key, Err: err}
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fail(err)
	}
	a, err := pipeline.NewAnonymizer(*settings, content)
	if err != nil {
		return nil, fail(fmt.Errorf("%s: %w", path, err))
	}
	return a, nil
}

// checkKeys reports keys that cannot be used.
func (c *Config) checkKeys() error {
	_, err := c.Anonymizer()
	_, previous := c.PreviousAnonymizer()
	return errors.Join(err, previous)
}
