// Package series is the vocabulary that every other package speaks: schema, source, row, sink.
//
// Inputs make rows, the pipeline maps rows, lanes carry them, the store keeps the last one, outputs take them. What
// belongs to a series (labels, metadata) is in the schema and is worked on when a series appears; what changes is in
// the row.
//
//	catalog := series.NewCatalog()
//	schema := catalog.Extend(catalog.Empty(), []series.Column{{Labels: labels.FromStrings("__name__", "up")}})
//	source := &series.Source{Key: "scrape/node/localhost:9100", Labels: labels.FromStrings("job", "node")}
//	err := sink(&series.Row{Source: source, Schema: schema, T: now, Values: []float64{1}})
//
// It promises that equal schemas are one object, that column numbers never change along a chain of growth, and that
// nothing here does I/O or knows a clock. It does not validate names or values: inputs do.
package series
