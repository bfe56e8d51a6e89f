// Package receive is the front of what applications and Prometheus servers write to this process: which protocols are
// taken, on which listener, and from whom.
//
//	guard, err := receive.NewGuard(receive.GuardOptions{Config: cfg, Logger: logger})
//	mux.Handle("/api/v1/write", guard.Handler(handler)) // receive.Sender(r) names the sender there
//
// At a hub a sender is a site, and its credential says which. At an edge everything that is received is the edge's own,
// and who may write it is asked only where there is a file of tokens.
//
// It leaves out the protocols themselves (packages remotewrite and push) and where rows go.
package receive
