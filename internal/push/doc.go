// Package push speaks the Pushgateway's protocol in both directions: Gateway takes what batch jobs push, and the client
// of the other files gives rows to a Push Gateway somewhere else.
//
// A Gateway keeps groups of pushed metrics as the Pushgateway does, until they are replaced, deleted or expire. Every
// group is a source: a push becomes a whole row at once and is answered when the row is durable; later the group is
// sampled again every interval, so that it is served for as long as it is there, and it ends with a row that says so.
//
//	gateway, err := push.Open(push.Options{Dir: dir, Commit: commit, Catalog: catalog, Settings: settings, ...})
//	maps.Copy(handlers, gateway.Handlers())
//	err = gateway.Run(ctx) // samples and expires groups until ctx ends
//	err = gateway.Close()
//
// It answers as Pushgateway 1.11 does, with these additions: a TTL for all groups or, by the header Thalweg-TTL, for one
// push; limits, of the body as of all that is kept; persistence that loses no answered push.
//
// It promises that a push costs the same however many groups there are: what the consistency check needs is indexed; that
// memory and disk are bounded by Limits; and that it starts whatever is on disk. It is safe for concurrent use.
//
// It leaves out who may push as what site (Options.Site), the status page, and what ends the process (/-/quit).
package push
