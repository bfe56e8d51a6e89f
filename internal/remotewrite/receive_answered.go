package remotewrite

// maxAnswered bounds the requests of a site whose answers are remembered: those of a minute at 30 requests a second.
const maxAnswered = 2048

// answered are the newest requests that were stored, by the hash of their body, and what was answered. A sender that has
// not got the answer sends the same bytes again: the samples before the newest of each series would seem to be out of
// order.
type answered struct {
	byHash map[uint64]result
	hashes []uint64 // the last ones, in a ring
	next   int
}

// result is what came of a request.
type result struct {
	written count
	refused *problems // nil if there are none
}

// remember notes the result of a request.
func (a *answered) remember(hash uint64, r result) {
	if a.byHash == nil {
		a.byHash = map[uint64]result{}
	}
	if _, ok := a.byHash[hash]; !ok {
		if len(a.hashes) < maxAnswered {
			a.hashes = append(a.hashes, hash)
		} else {
			delete(a.byHash, a.hashes[a.next])
			a.hashes[a.next] = hash
			a.next = (a.next + 1) % maxAnswered
		}
	}
	a.byHash[hash] = r
}
