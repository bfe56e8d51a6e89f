package lane

import "time"

// Bounds of Pace.
const (
	smallestBundle = 4 << 10
	// hold is how long a bundle may hold up what is sent beside it.
	hold = 100 * time.Millisecond
)

// Pace sizes the messages of a lane so that one takes a link about 100 ms, whatever its rate is and however long the way:
// it grows while larger messages are answered as quickly as small ones, and shrinks where they are not. The time of the
// way is the shortest of late, so that a link that changes is found out. Its zero value begins with the smallest size.
type Pace struct {
	size int           // of the next bundle
	way  time.Duration // what a message takes that has no size
}

// Room is how many bytes the next message may have; a frame that is larger goes alone.
func (p *Pace) Room() int { return max(p.size, smallestBundle) }

// Sent takes what a message of a size took until it was answered.
func (p *Pace) Sent(bytes int, took time.Duration) {
	if p.way == 0 || took < p.way {
		p.way = took
	}
	slow := took-p.way > hold
	p.way += (took - p.way) / 64
	switch room := p.Room(); {
	case slow && bytes > smallestBundle/2:
		p.size = max(min(room, bytes)/2, smallestBundle)
	case !slow && bytes > room/2: // else it says nothing about larger ones
		p.size = 2 * room
	}
}
