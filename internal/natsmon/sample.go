package natsmon

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// GathererWithin is Gatherer for somebody who waits no longer than the timeout, and not beyond the end of ctx.
func (e *Exporter) GathererWithin(ctx context.Context, timeout time.Duration) prometheus.Gatherer {
	return e.gatherer(ctx, timeout, e.targets, e.labelled)
}
