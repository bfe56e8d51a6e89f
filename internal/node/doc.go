// Package node puts the parts together: from a configuration to a running process. It is the only place where inputs,
// lanes and outputs meet, and it owns the order in which they start and stop.
//
//	scrape   self   events   receivers of an edge   receivers of a hub  the embedded NATS server
//	     \     |     /       /                      |                       |
//	       pipeline                                 |                       |
//	       /      \                                 |                       |
//	    edge    store (of an edge alone)         deposits                  bus
//	      |        \                                |                       |
//	     bus        federate, web                  bus                      |
//	      |                                         |                       |
//	      +---------------- the stream -------------+-----------------------+
//	                         /      \
//	                      hub        outputs -> remote write, Push Gateway
//	                       |
//	                     store -> federate, web
//
// Start: server, connections, hub, outputs, edge, receivers, event gateway, inputs, web. Stop: inputs and the listeners of receivers
// and of the event gateway first, so that nothing new is accepted; then the edge flushes and drains, while the hub and the server still work; then
// outputs, which finish what is under way, the hub, the web listener, the connections, the server; pushed groups, the
// state of the event gateway and the outbox are closed last.
//
//	n, err := node.New(node.Options{Config: cfg, Log: log, Version: version, ListenAddress: "127.0.0.1:9797"})
//	err = n.Run(ctx)
package node
