//go:build !linux

package events

// place is not known: who was killed and is started anew waits until its lease is over.
func place(_, _ string) string { return "" }
