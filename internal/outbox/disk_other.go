//go:build !(linux || darwin || freebsd)

package outbox

func (d osDir) Free() (bytes int64, ok bool) { return 0, false }
