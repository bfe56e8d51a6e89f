package events

import "math"

// sum is a number to which others are added, with what rounding has lost of them (Neumaier): a million times 0.1 is
// 100,000. Whole numbers are exact beyond 2^53.
type sum struct {
	value, rest float64
}

func (s *sum) add(v float64) {
	t := s.value + v
	if math.Abs(s.value) >= math.Abs(v) {
		s.rest += (s.value - t) + v
	} else {
		s.rest += (v - t) + s.value
	}
	s.value = t
}

// total is the sum, rounded once.
func (s *sum) total() float64 {
	if t := s.value + s.rest; !math.IsNaN(t) {
		return t
	}
	return s.value // beyond what floats can be, there is no rest
}
