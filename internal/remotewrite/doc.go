// Package remotewrite is Prometheus remote write, 1.0 and 2.0, in both directions.
//
// Out: a Writer is one receiver somewhere else. It makes the two Senders that an output of the hub delivers its rows to,
// one for what is new and one for what arrived late, so that neither waits for the other.
//
//	w, err := remotewrite.NewWriter(remotewrite.WriterOptions{Config: c, ExternalLabels: external, Store: rules, ...})
//	live, backfill := w.NewSender(false), w.NewSender(true)
//	live.Row("ams-1", row)
//	done, err := live.Flush(ctx, refused)
//
// A sender promises that samples of a series go out in the order of their rows, that every row is answered for good when
// Flush returns (taken, or refused with the receiver's words), and that a receiver that is away costs one batch and a
// goroutine for each shard. What it sends again, after an answer that did not come, is the same to the bit. A series has the labels that it
// has at /federate, and then write_relabel_configs.
//
// In: a Receiver is the handler of /api/v1/write; it turns requests into rows and answers when those are durable.
//
// How rows become requests and back is the business of package writeproto. Where rows come from, which of them were
// delivered, and what is missing at a receiver is that of the hub's outputs: this package remembers nothing of that.
package remotewrite
