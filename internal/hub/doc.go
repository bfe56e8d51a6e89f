// Package hub is the reading side: it turns the stream back into rows.
//
// The tail reader starts a keyframe and a half back, feeds the store and asks edges for keyframes; it waits for nobody.
// Ledgers say of every site which rows exist and which reached this hub, and why others did not; they outlive the process,
// and what the tail reader leaves out is read for them behind it (docs/adr/006-the-ledgers-of-a-hub-are-kept.md). An
// Output delivers every row to one destination, once and in the order of lanes: it reads the stream itself, at its own
// pace, live rows and backfill apart, and keeps a cursor on disk. Of several hubs one delivers an output, and the others know
// from a journal what it delivered.
//
//	h, err := hub.New(hub.Options{Config: cfg, Conn: conn, Store: store, Catalog: catalog, Logger: logger, ...})
//	go h.Run(ctx)
//	<-h.CaughtUp() // the store has what the stream held at the start
//
// The machines that decide are in package lane. A hub treats every frame as hostile: what is wrong with one is counted
// and logged, and harms no other site.
package hub
