// Package seriestest makes rows for tests: of all kinds, the way inputs do, from a seed.
//
//	w := seriestest.New(1)
//	row := w.Row()
//	want := seriestest.Show(row)
//
// It promises that a seed gives the same rows again, and that Show tells two rows apart bit for bit.
package seriestest
