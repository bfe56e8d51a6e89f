// Package events is the event gateway: processes that live for milliseconds throw JSON metric events at a queue and
// forget; the gateway aggregates them exactly and durably. It takes the place of prom-stream-gateway (docs/events.md).
//
//	gateway, err := events.Open(events.Options{Config: config, Dir: dir, Site: site, Sink: sink, ...})
//	maps.Copy(handlers, gateway.Handlers()) // POST /api/v1/events, /gateway/metrics
//	err = gateway.Run(ctx)                  // reads Redis, makes rows, writes checkpoints until ctx ends
//	err = gateway.Close()
//
// Events come from a Redis list, by HTTP, and from streams that others read for it (Stream). A Parser reads them, an
// aggregate keeps a sum for each series, and both a page (ServeMetrics) and a whole row for the Sink every interval show
// them.
//
// It promises that what a sender's Redis list, stream or answered request held counts once, over kill -9 of the process
// and over lost answers: how far a source has been read stands in the same record on disk as what that came to
// (checkpoint.go, redis.go, streams.go). Memory is bounded by Limits, and every event that is dropped is counted by a
// Reason of a closed set. One event never stops another one, and never breaks the page. Replicas keep the same records in
// Redis, too, and one at a time takes events (redis_lease.go, redis_replica.go).
//
// It leaves out who may send (the listener's business), the reading of NATS (Stream takes what was read), and what
// only the senders' Redis can lose.
package events
