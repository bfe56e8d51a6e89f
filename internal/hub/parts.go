package hub

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"

	"github.com/thalweg/thalweg/internal/bus"
)

// Parts is a set of parts: bit i is part i.
type Parts uint64

// AllParts is every part.
const AllParts Parts = 1<<bus.Parts - 1

// Has reports whether part i is in the set.
func (p Parts) Has(i uint32) bool { return i < bus.Parts && p&(1<<i) != 0 }

// List returns the parts in ascending order.
func (p Parts) List() []uint32 {
	list := make([]uint32, 0, bits.OnesCount64(uint64(p)))
	for ; p != 0; p &= p - 1 {
		list = append(list, uint32(bits.TrailingZeros64(uint64(p))))
	}
	return list
}

// String writes the set as ParseParts reads it, such as 0-31,40.
func (p Parts) String() string {
	var ranges []string
	for i := 0; i < bus.Parts; i++ {
		if !p.Has(uint32(i)) {
			continue
		}
		from := i
		for p.Has(uint32(i + 1)) {
			i++
		}
		if from == i {
			ranges = append(ranges, strconv.Itoa(i))
		} else {
			ranges = append(ranges, fmt.Sprintf("%d-%d", from, i))
		}
	}
	return strings.Join(ranges, ",")
}

// ParseParts reads numbers and ranges of numbers from 0 to 63, separated by commas.
func ParseParts(s string) (Parts, error) {
	var p Parts
	for item := range strings.SplitSeq(s, ",") {
		low, high, isRange := strings.Cut(strings.TrimSpace(item), "-")
		from, err := strconv.ParseUint(low, 10, 8)
		to := from
		if err == nil && isRange {
			to, err = strconv.ParseUint(high, 10, 8)
		}
		if err != nil || from > to || to >= bus.Parts {
			return 0, fmt.Errorf("parse parts %q: %q is not a part or a range within 0-63", s, item)
		}
		for i := from; i <= to; i++ {
			p |= 1 << i
		}
	}
	return p, nil
}

// MarshalText writes what UnmarshalText reads.
func (p Parts) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads what ParseParts reads.
func (p *Parts) UnmarshalText(text []byte) (err error) {
	*p, err = ParseParts(string(text))
	return err
}
