// Package federate answers /federate as Prometheus does: the newest sample of every series that one of the match[]
// selectors selects.
//
//	handler, err := federate.New(federate.Options{Select: st.Select, Config: federate.DefaultConfig()})
//	mux.Handle("/federate", handler)
//
// Selection, errors, label order, external labels, escaping and values are Prometheus'. Better than the original are:
// TYPE and HELP of every family (Config.Types turns them off), families that never interleave, quality values in
// Accept-Encoding, HEAD, and an answer that leaves while it is made: nothing but a part of one family is in memory, a
// slow reader holds nobody up, and one that has gone stops the work.
//
// The answer is not one instant (see store.Select). Samples up to store.FutureBound ahead are part of it: the clock
// of a site may be ahead of this one.
//
// It leaves out OpenMetrics and protobuf, and with them exponential histograms, exemplars, start times and units.
package federate
