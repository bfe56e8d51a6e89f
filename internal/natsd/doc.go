// Package natsd is the NATS server that runs in this process, with JetStream.
//
//	server, err := natsd.Start(natsd.Options{Config: cfg, StoreDir: dir, Root: root, Stream: stream, Logger: log})
//	conn, err := bus.Connect(bus.Options{Config: busConfig, InProcess: server.Core(), Logger: log})
//	err = server.Run(ctx) // ends with ctx, or when the server dies
//
// Clients of sites live in the account SITES, JetStream and hubs in CORE, server statistics in SYS. A site can publish
// its two lanes, its hello, its events and a new key of its own, read back the last message of its own lanes, answer
// requests on its control subjects, and nothing else. Somebody with a join token can present a key. MQTT clients of a site live
// in the account MQTT and can publish its events.
//
// NATS does not check the reply subject of a message: who makes a request decides where the answer goes, also to a
// subject that he may not publish on, and the content of the answer to a direct get is his own. Therefore
//   - nothing but the services listed in accounts.go crosses between SITES and CORE, so that no answer reaches a hub's
//     inbox or the JetStream API;
//   - those services are wildcards of one export, so that no answer reaches a lane: one that meets such an import goes on
//     under its internal _R_ subject instead of the forged one, and the server does not let the answer of an export
//     enter the same export again (an import of a literal subject would lack the first, separate exports the second);
//   - an answer has no reply subject of its own, and edges and hubs take only messages that have one for requests
//     (bus.Conn.Serve), so that no answer passes for a request;
//   - an inbox has a random name, so that no answer passes for another.
//
// It promises that a client's account and permissions are decided in one function (authenticator.decide), that nothing
// in here ends the process, that a second server on the same store directory is refused, and that JetStream goes on by
// itself when a full disk has space again (storage.go). Who sites are is kept in a registry that all servers of a cluster
// share (package identity, registry.go): nobody is let in by a key before it was read, and who is revoked is cut off.
package natsd
