package events

import (
	"encoding/binary"
	"math/bits"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
	"unsafe"
)

// scanner reads JSON (RFC 8259). After an error it has failed and is at the end.
type scanner struct {
	data   []byte
	i      int
	failed bool
	text   []byte // strings that had escapes, or bytes that are not UTF-8
}

// text makes a string of bytes that do not change as long as it is used.
func text(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

func (s *scanner) fail() {
	s.failed = true
	s.i = len(s.data)
}

// peek returns the next byte, 0 at the end.
func (s *scanner) peek() byte {
	if s.i < len(s.data) {
		return s.data[s.i]
	}
	return 0
}

func (s *scanner) space() {
	if s.i < len(s.data) && s.data[s.i] <= ' ' {
		s.spaces()
	}
}

func (s *scanner) spaces() {
	for s.i < len(s.data) {
		switch s.data[s.i] {
		case ' ', '\t', '\n', '\r':
			s.i++
		default:
			return
		}
	}
}

func (s *scanner) accept(c byte) bool {
	if s.i < len(s.data) && s.data[s.i] == c {
		s.i++
		return true
	}
	return false
}

func (s *scanner) expect(c byte) {
	if !s.accept(c) {
		s.fail()
	}
}

// colon passes over the one between a name and its value.
func (s *scanner) colon() {
	if s.i+1 < len(s.data) && s.data[s.i] == ':' && s.data[s.i+1] > ' ' {
		s.i++
		return
	}
	s.space()
	s.expect(':')
	s.space()
}

// more passes over what is behind an element: a comma, with which there is another one, or the end.
func (s *scanner) more(end byte) bool {
	if s.i+1 < len(s.data) && s.data[s.i] == ',' && s.data[s.i+1] > ' ' {
		s.i++
		return true
	}
	s.space()
	if s.accept(',') {
		s.space()
		return true
	}
	s.expect(end)
	return false
}

func (s *scanner) word(w string) {
	if len(s.data)-s.i < len(w) || string(s.data[s.i:s.i+len(w)]) != w {
		s.fail()
		return
	}
	s.i += len(w)
}

// string reads a string. It refers to the data, or to text if it stands there in another form.
func (s *scanner) string() string {
	if !s.accept('"') {
		s.fail()
		return ""
	}
	first := s.i
	i := plain(s.data, first)
	if i < len(s.data) && s.data[i] == '"' {
		s.i = i + 1
		return text(s.data[first:i])
	}
	return s.rare(first, i)
}

// plain returns where the first byte from i on is that ends a string or is not as simple as it looks.
func plain(data []byte, i int) int {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	for ; len(data)-i >= 8; i += 8 {
		w := binary.LittleEndian.Uint64(data[i:])
		quote, escape := w^ones*'"', w^ones*'\\'
		// The top bit of each byte that is zero, or below a space, or not ASCII; above the first such one there may be more.
		if m := ((quote - ones) | (escape - ones) | (w - ones*0x20) | w) & tops; m != 0 {
			return i + bits.TrailingZeros64(m)>>3
		}
	}
	for ; i < len(data); i++ {
		if c := data[i]; c == '"' || c == '\\' || c < ' ' || c >= utf8.RuneSelf {
			break
		}
	}
	return i
}

// rare reads on at i in a string in which there is more than plain ASCII.
func (s *scanner) rare(first, i int) string {
	for ; i < len(s.data); i++ {
		switch c := s.data[i]; {
		case c == '"':
			s.i = i + 1
			if raw := s.data[first:i]; !utf8.Valid(raw) {
				return s.replaced(raw)
			}
			return text(s.data[first:i])
		case c == '\\':
			return s.unescaped(first, i)
		case c < ' ':
			s.fail()
			return ""
		}
	}
	s.fail()
	return ""
}

// replaced has the replacement character for every byte that is not UTF-8.
func (s *scanner) replaced(raw []byte) string {
	first := len(s.text)
	for len(raw) > 0 {
		r, n := utf8.DecodeRune(raw)
		s.text = utf8.AppendRune(s.text, r)
		raw = raw[n:]
	}
	return text(s.text[first:])
}

// unescaped reads on in a string at its first escape.
func (s *scanner) unescaped(first, at int) string {
	start := len(s.text)
	s.text = append(s.text, s.data[first:at]...)
	s.i = at
	for s.i < len(s.data) {
		switch c := s.data[s.i]; {
		case c == '"':
			s.i++
			if raw := s.text[start:]; !utf8.Valid(raw) {
				return s.replaced(raw)
			}
			return text(s.text[start:])
		case c == '\\':
			s.escape()
		case c < ' ':
			s.fail()
		default:
			s.text = append(s.text, c)
			s.i++
		}
	}
	s.fail()
	return ""
}

func (s *scanner) escape() {
	s.i++
	c := s.peek()
	s.i++
	switch c {
	case '"', '\\', '/':
	case 'b':
		c = '\b'
	case 'f':
		c = '\f'
	case 'n':
		c = '\n'
	case 'r':
		c = '\r'
	case 't':
		c = '\t'
	case 'u':
		s.text = utf8.AppendRune(s.text, s.codePoint())
		return
	default:
		s.fail()
		return
	}
	s.text = append(s.text, c)
}

// codePoint reads what stands behind \u, and the other half of a pair. A half alone is the replacement character.
func (s *scanner) codePoint() rune {
	r := s.hex(s.i)
	if r < 0 {
		s.fail()
		return 0
	}
	s.i += 4
	if !utf16.IsSurrogate(r) {
		return r
	}
	if s.i+1 < len(s.data) && s.data[s.i] == '\\' && s.data[s.i+1] == 'u' {
		if pair := utf16.DecodeRune(r, s.hex(s.i+2)); pair != utf8.RuneError {
			s.i += 6
			return pair
		}
	}
	return utf8.RuneError
}

// hex returns the four digits at i as a number, -1 if there are none.
func (s *scanner) hex(i int) rune {
	if len(s.data)-i < 4 {
		return -1
	}
	r := rune(0)
	for _, c := range s.data[i : i+4] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return -1
		}
		r = r<<4 | rune(c)
	}
	return r
}

// number reads a number. One that is too large is infinite.
func (s *scanner) number() float64 {
	first := s.i
	negative := s.accept('-')
	mantissa, exact := uint64(0), true
	digits := func() int {
		from := s.i
		for s.i < len(s.data) && s.data[s.i]-'0' <= 9 {
			high, low := bits.Mul64(mantissa, 10)
			mantissa = low + uint64(s.data[s.i]-'0')
			exact = exact && high == 0 && low <= 1<<63
			s.i++
		}
		return s.i - from
	}
	switch n := digits(); {
	case n == 0, n > 1 && s.data[s.i-n] == '0':
		s.fail()
		return 0
	}
	decimals := 0
	if s.accept('.') {
		if decimals = digits(); decimals == 0 {
			s.fail()
			return 0
		}
	}
	if c := s.peek(); c == 'e' || c == 'E' {
		s.i++
		if !s.accept('-') {
			s.accept('+')
		}
		exact = false
		if digits() == 0 {
			s.fail()
			return 0
		}
	}
	// Both are exact, so that the quotient is the number next to what stands there.
	if exact && mantissa <= 1<<53 && decimals < len(powers) {
		v := float64(mantissa) / powers[decimals]
		if negative {
			return -v
		}
		return v
	}
	v, _ := strconv.ParseFloat(text(s.data[first:s.i]), 64) // the only error is that of the range, and v is infinite then
	return v
}

// powers of ten that are exact.
var powers = [...]float64{
	1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
}

// skip passes over a value that stands at a depth if it is a list or an object.
func (s *scanner) skip(depth int) {
	switch c := s.peek(); {
	case c == '"':
		s.string()
	case c == '{', c == '[':
		s.skipAll(depth)
	case c == 't':
		s.word("true")
	case c == 'f':
		s.word("false")
	case c == 'n':
		s.word("null")
	case c == '-', c >= '0' && c <= '9':
		s.number()
	default:
		s.fail()
	}
}

func (s *scanner) skipAll(depth int) {
	if depth > maxDepth {
		s.fail()
		return
	}
	object := s.peek() == '{'
	end := byte(']')
	if object {
		end = '}'
	}
	s.i++
	if s.space(); s.accept(end) {
		return
	}
	for !s.failed {
		if object {
			s.string()
			s.colon()
		}
		s.skip(depth + 1)
		if !s.more(end) {
			return
		}
	}
}
