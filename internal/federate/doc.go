// Package federate answers /federate as Prometheus does: the newest sample of every series that one of the match[]
// selectors selects.
//
//	handler, err := federate.New(federate.Options{Select: st.Select, Config: federate.DefaultConfig()})
//	mux.Handle("/federate", handler)
//
// Selection, errors, label order, external labels, escaping and values are Prometheus'. Better than the original are:
//
//   - types, help and units are real (Config.Types turns them off, and all of the following but the last two);
//   - OpenMetrics for those who ask for it, with exemplars and start timestamps;
//   - protobuf has exemplars and start timestamps too, integer histograms as such, and leaves UTF-8 names alone if any
//     clause of Accept allows them;
//   - what Accept-Encoding prefers is what comes, zstd included, and HEAD works;
//   - families never interleave, and the answer leaves while it is made: nothing but a part of one family is in memory
//     (all of it only if its series may be identical or disagree on the type), a slow reader holds nobody up, and one
//     that has gone stops the work.
//
// Exponential histograms have no words in the text formats and are left out there, as in Prometheus. In protobuf a
// histogram or summary of which only a part is selected is untyped, for readers would make up the rest, and a family
// beyond a megabyte comes as several messages.
//
// It is cheap because names are not rendered for each line: the text formats render the labels of a source once for an
// answer and those of a series once for all sources that have it, and lines are put together of these.
//
// The answer is not one instant (see store.Select). Samples up to store.FutureBound ahead are part of it: the clock
// of a site may be ahead of this one, and there is no earlier sample to show instead.
package federate
