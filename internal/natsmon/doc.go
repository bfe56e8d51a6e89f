// Package natsmon reads what NATS servers say of themselves and makes Prometheus metrics of it: the server in this process,
// servers with a monitoring URL, and all servers of a cluster through a connection of its system account.
//
//	exporter, err := natsmon.New(natsmon.Options{Config: config, Embedded: server, ...})
//	handlers["/nats/metrics"] = exporter.Handler()
//	err = exporter.Run(ctx) // counts bytes on the wire until ctx ends
//
// A Reader reads a target into Servers, each what one server says at one moment; families*.go says which metrics come of
// it. Nothing is read but when somebody scrapes, and never twice at the same time.
//
// It promises that a server that is slow or gone costs only its own metrics, that counters are counters and never go
// back while the server lives, that values of a stream or consumer come from its leader alone, that the number of series is
// bounded (limits.go), and that no answer of a server ends the process or fills its memory.
//
// It leaves out following messages and advisories: it asks, and does not listen.
package natsmon
