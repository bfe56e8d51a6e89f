//go:build !linux && !darwin && !freebsd

package natsmon

func diskOf(string) *Disk { return nil }
