package frame

// Ways of version 1 to code the value of a float column (docs/frame-v1.md, section 5). A token is one byte: the way in
// the upper three bits, the number of columns that use it, less one, in the lower five.
const (
	waySame1 = 0 // the same bits as before
	wayStep1 = 1 // the last delta again
	wayLike1 = 2 // the delta of the last column of this row that has one
	wayDelta = 3 // a delta
	wayTurn  = 4 // a delta, less the last delta
	wayInt   = 5 // a power of ten and a scaled integer
	wayXOR   = 6 // the bits that differ, as bytes

	maxRun = 32
)

// column1 is what encoder and decoder of version 1 both know of one float column: its last value, and, if that value is
// an exact decimal, the integer it is at a power of ten. It begins as +0.
type column1 struct {
	bits   uint64
	scaled int64
	delta  int64
	power  int8 // value = scaled / 10^power; powerNone if the last value was not scaled
}

const powerNone = -1
