// Package pipeline decides which series pass, under which labels, and how many. It maps rows to rows, at both ends: what
// leaves a site, and what a hub takes from one.
//
// A series is looked at once, when its schema appears; a row is then only compared with the one before, and copied by
// column number where columns are missing:
//
//	p, err := pipeline.New(pipeline.Options{Catalog: catalog, Match: match, Relabel: rules, Limits: limits})
//	err = p.Apply(row, now, next) // next sees what is left of row, or nothing
//
// Rules judge each series by itself, in this order: match (a series passes if a selector of each list selects it, or one
// of Always), external labels (added where the series has no label of that name), relabelling, required labels, number
// and lengths of labels, pseudonyms. Of series of a source that end up with the same labels the first one passes. The
// labels of the source itself are, on the way out, what all its series have in common then; with pseudonyms its key is one
// too, so that nothing of a clear value leaves.
//
// Limits count what the rules let pass over all sources of a site. A series is alive from the row that has it to the one
// that ends it: a whole row without it, a stale marker in a partial one, the end or the silence of its source. Series
// beyond a limit are left out of their rows and get in as soon as there is room; rows beyond the rate of samples, and of
// sources beyond their number, are refused as a whole. Reload keeps what is counted.
//
// It promises that a row of which everything passes unchanged is handed on untouched, that the steady state allocates
// nothing, that equal results share one schema, and that source pointers on the way out are as stable as on the way in. It
// is safe for concurrent use; rows of one source are handed on one after the other. It does no I/O and has no clock.
package pipeline
