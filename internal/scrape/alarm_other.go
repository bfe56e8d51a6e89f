//go:build !linux

package scrape

func newAlarm() alarm { return newTimerAlarm() }
