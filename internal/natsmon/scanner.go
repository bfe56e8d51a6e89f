package natsmon

import (
	"errors"
	"fmt"
	"io"
	"strconv"
)

// scanner reads JSON as it comes, and makes values only of what is wanted. For ten thousand connections, of which a third of
// the fields are, encoding/json takes several times as long. What is not wanted is checked only as far as it takes to find its
// end.
type scanner struct {
	r     io.Reader
	buf   []byte // what was read last
	at    int    // how much of buf was taken
	depth int
	text  []byte // of the last literal or string
}

const (
	scannerBuffer   = 64 << 10
	maxScannerDepth = 100
)

var errDeep = errors.New("JSON is nested too deeply")

func newScanner(r io.Reader) *scanner {
	return &scanner{r: r, buf: make([]byte, 0, scannerBuffer)}
}

func (s *scanner) next() (byte, error) {
	if s.at == len(s.buf) {
		if err := s.fill(); err != nil {
			return 0, err
		}
	}
	s.at++
	return s.buf[s.at-1], nil
}

// back takes back the last byte.
func (s *scanner) back() { s.at-- }

// fill reads more, of which there is at least a byte then.
func (s *scanner) fill() error {
	n, err := io.ReadAtLeast(s.r, s.buf[:cap(s.buf)], 1)
	s.buf, s.at = s.buf[:n], 0
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// token is the next byte that is not white space.
func (s *scanner) token() (byte, error) {
	for {
		c, err := s.next()
		if err != nil || c != ' ' && c != '\n' && c != '\t' && c != '\r' {
			return c, err
		}
	}
}

func (s *scanner) expect(want byte) error {
	c, err := s.token()
	if err == nil && c != want {
		err = fmt.Errorf("JSON has %q in place of %q", c, want)
	}
	return err
}

// object calls member for each member of an object, which has to read its value. The key is valid until then.
func (s *scanner) object(member func(key []byte) error) error {
	return s.list('{', '}', func() error {
		if err := s.expect('"'); err != nil {
			return err
		}
		if err := s.string(); err != nil {
			return err
		}
		if err := s.expect(':'); err != nil {
			return err
		}
		return member(s.text)
	})
}

// array calls element for each element of an array, which has to read it.
func (s *scanner) array(element func() error) error { return s.list('[', ']', element) }

func (s *scanner) list(begin, end byte, one func() error) error {
	if err := s.expect(begin); err != nil {
		return err
	}
	if s.depth++; s.depth > maxScannerDepth {
		return errDeep
	}
	defer func() { s.depth-- }()
	c, err := s.token()
	if err != nil || c == end {
		return err
	}
	s.back()
	for {
		if err := one(); err != nil {
			return err
		}
		switch c, err := s.token(); {
		case err != nil:
			return err
		case c == end:
			return nil
		case c != ',':
			return fmt.Errorf("JSON has %q in place of %q or %q", c, ',', end)
		}
	}
}

// string reads what follows a quotation mark up to the next one into text, as it stands.
func (s *scanner) string() error {
	s.text = s.text[:0]
	for {
		c, err := s.next()
		if err != nil || c == '"' {
			return err
		}
		s.text = append(s.text, c)
		if c == '\\' {
			if c, err = s.next(); err != nil {
				return err
			}
			s.text = append(s.text, c)
		}
	}
}

// literal reads a number, true, false or null into text.
func (s *scanner) literal() error {
	s.text = s.text[:0]
	c, err := s.token()
	for ; err == nil; c, err = s.next() {
		switch {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c == '-', c == '+', c == '.', c == 'E':
			s.text = append(s.text, c)
		case len(s.text) == 0:
			return fmt.Errorf("JSON has %q in place of a value", c)
		default:
			s.back()
			return nil
		}
	}
	return err
}

// skip reads a value that nobody wants.
func (s *scanner) skip() error {
	c, err := s.token()
	if err != nil {
		return err
	}
	if c == '"' {
		return s.string()
	}
	s.back()
	switch c {
	case '{':
		return s.object(func([]byte) error { return s.skip() })
	case '[':
		return s.array(s.skip)
	}
	return s.literal()
}

// int reads a whole number.
func (s *scanner) int() (int64, error) {
	if err := s.literal(); err != nil {
		return 0, err
	}
	return strconv.ParseInt(string(s.text), 10, 64)
}

// word reads a string without escapes: one that has any is not unescaped.
func (s *scanner) word() (string, error) {
	if err := s.expect('"'); err != nil {
		return "", err
	}
	err := s.string()
	return string(s.text), err
}
