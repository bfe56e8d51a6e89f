// Package expo reads and writes the exposition formats: text, OpenMetrics and protobuf on the way in.
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
// Samples with timestamps of their own belong to a second source of the same labels. They go into partial rows, one
// per timestamp, and only if their timestamp advanced. Whole and partial rows never mix in a source, so that what a
// whole row lacks has ended without a doubt.
//
// It promises that a body is taken whole or not at all: after an error the parser knows what it knew before. The
// samples are those of Prometheus' textparse, bit for bit. A parser is for one goroutine; different parsers are
// independent. It does no I/O, has no clock, and keeps no more than the last body and its schemas hold.
//
// It leaves out what a scraper decides: which labels a series gets and whether its name is valid (Options.Map), up and
// its companions (Options.Lead), and the transfer of bodies.
package expo
