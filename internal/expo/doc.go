// Package expo reads and writes the exposition formats: text, OpenMetrics and protobuf.
//
// A Parser belongs to one target. It remembers the series of that target, so that labels are built when a series
// appears and not once per sample, and turns every body into one whole row:
//
//	p := expo.NewParser(expo.Options{Catalog: catalog, Source: source, Map: mapLabels})
//	result, err := p.Parse(body, contentType, now.UnixMilli())
//	sink(result.Whole) // after an error: a row in which everything has ended
//	for i := range result.Stamped {
//		sink(&result.Stamped[i])
//	}
//
// Samples with timestamps of their own, such as those of a Prometheus' /federate, belong to other sources, one for each
// (job, instance). They go into partial rows, one per source and timestamp, and only if their timestamp advanced. With
// TrackStaleness a series that is absent ends by a stale marker at the time of the scrape; a source without series ends
// after EndAfter bodies. Buckets of a histogram that carry different timestamps (a body made while the other side was
// writing) are kept as they come. Whole and partial rows never mix in a source, so that what a whole row lacks has ended
// without a doubt.
//
// Most bodies say again what the one before said, with other values. The parser keeps a good body without its values, line
// by line (the script), and what each line is for the target (the cast). A body in the text format or in OpenMetrics is
// compared with it: one comparison of memory for each sample, and one number where the value is another one, nothing
// allocated. The body may leave out lines; what it says beyond the script makes another script. textparse judges single
// lines that are new or uncommon, whole bodies that do not come apart into lines, and all of protobuf; the script saves
// these the look-up of their series. Targets that say the same share a script, if their parsers have the same Scripts.
//
// It promises that a body is taken whole or not at all: after an error the parser knows what it knew before. The
// samples are those of Prometheus' textparse, bit for bit. Start timestamps come from protobuf only: in OpenMetrics they
// are series whose names end in _created, and stay so, as in Prometheus without feature flags. A parser is for one
// goroutine; different parsers are independent. It does no I/O, has no clock, and remembers at most three times the
// series of the larger of the last two bodies (and 1000).
//
// Text, OpenMetrics and Proto append families to a buffer, sample by sample, as Prometheus and its libraries write
// them. Which format, and which series, is the caller's business.
//
// It leaves out what a scraper decides: which labels a series gets and whether its name is valid (Options.Map), up and
// its companions (Options.Lead), and the transfer of bodies.
package expo
