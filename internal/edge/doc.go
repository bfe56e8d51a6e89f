// Package edge is the sending side of a site: rows become frames, frames go to the outbox on disk and from there onto
// the lanes.
//
//	e, err := edge.New(edge.Options{Site: "ams-1", Config: cfg, Dir: dir, Conn: conn, Logger: logger, ...})
//	go e.Run(ctx)    // flushes and publishes until ctx ends, then drains
//	err = e.Sink(row)
//
// A row is accepted when Sink returns nil, and safe from kill -9 (and, with outbox.sync: flush, from power loss) at the
// next flush; Commit is for senders that wait for that. Accepted rows reach the stream however long the link is down, or
// are announced as lost. The machines that decide are in package lane; this package moves their messages between outbox
// and bus, and knows nothing of where rows come from.
package edge
