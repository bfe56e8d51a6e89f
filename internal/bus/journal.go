package bus

import (
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// maxJournalBytes and maxJournalAge bound what journals hold together. What nobody wrote to for so long is of nobody.
	maxJournalBytes = 256 << 20
	maxJournalAge   = 30 * 24 * time.Hour
)

// JournalSubject is the subject of a journal in the connection's stream of journals (Options.Journals): Publish appends
// an entry, with compare-and-set, a Reader reads them, and Purge drops the first ones. A name has no dots or wildcards.
func (c *Conn) JournalSubject(name string) string { return c.root.under("journal") + name }

// wantedJournals is the stream of the connection's journals.
func (c *Conn) wantedJournals() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        c.options.Config.Stream.Name,
		Description: "Thalweg journals",
		Subjects:    []string{c.JournalSubject(">")},
		Storage:     jetstream.FileStorage,
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardOld,
		MaxAge:      maxJournalAge,
		MaxBytes:    maxJournalBytes,
		Replicas:    c.options.Config.Stream.Replicas,
		AllowDirect: true,
	}
}
