// Package pipeline decides which series pass and under which labels. It maps rows to rows.
//
// A series is looked at once, when its schema appears; a row is then only copied by column number:
//
//	p, err := pipeline.New(pipeline.Options{Catalog: catalog, Match: match, Relabel: rules})
//	sink := p.Wrap(next)
//	err = sink(row) // next sees what is left of row, or nothing
//
// In order: match (a series passes if one selector selects it, or one of Always), external labels (added where the
// series has no label of that name), relabelling. Of series that end up with the same labels the first one passes.
//
// It promises that a row of which everything passes unchanged is handed on untouched, that equal results share one
// schema, and that source pointers on the way out are as stable as on the way in. It is safe for concurrent use; rows
// of one source are handed on one after the other. It does no I/O and has no clock: a source counts as silent by the
// time in the rows of others.
//
// It leaves out limits and anonymisation.
package pipeline
