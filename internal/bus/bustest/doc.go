// Package bustest is for tests that need real NATS servers and bad links to them: embedded servers that can be
// restarted, a cluster of three, a TCP proxy that is a bad link (slow, lossy, stalled, half-open, losing answers), and an
// HTTP proxy that wants a credential or is captive.
//
//	server := bustest.NewServer(t)
//	proxy := bustest.NewProxy(t, server.Addr())
//	conn := bustest.Connect(t, bus.Options{Config: bustest.Config(proxy.URL()), Site: "ams-1"})
//	proxy.LoseAnswers(true)
//
// Everything listens on free loopback ports, keeps its files in the test's directory, and is stopped by the test's
// cleanup. Nothing here sleeps to wait: WaitFor polls a condition until a deadline that only a broken program meets.
package bustest
