package receive

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
)

// tokens has the name behind each token, by a hash: comparing two of them tells nothing about either.
type tokens map[[sha256.Size]byte]string

// senderName is what a sender, and a site, may be called.
var senderName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// readTokens reads a file of lines "NAME TOKEN". Its errors quote no token.
func readTokens(path string) (tokens, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read tokens_file: %w", err)
	}
	all := tokens{}
	var errs []error
	lines := bufio.NewScanner(bytes.NewReader(b))
	for n := 1; lines.Scan(); n++ {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if err := all.add(fields); err != nil {
			errs = append(errs, fmt.Errorf("read tokens_file %q: line %d: %w", path, n, err))
		}
	}
	if err := lines.Err(); err != nil {
		errs = append(errs, fmt.Errorf("read tokens_file %q: %w", path, err))
	}
	return all, errors.Join(errs...)
}

// add takes the words of a line.
func (t tokens) add(fields []string) error {
	name := fields[0]
	switch {
	case len(fields) != 2 && !(len(fields) > 2 && strings.HasPrefix(fields[2], "#")):
		return fmt.Errorf("want a name and a token, found %d words beginning with %q", len(fields), name)
	case !senderName.MatchString(name):
		return fmt.Errorf("name %q is not 1 to 64 letters, digits, _ and -", name)
	}
	hash := sha256.Sum256([]byte(fields[1]))
	if other, taken := t[hash]; taken && other != name {
		return fmt.Errorf("%q has the token of %q", name, other)
	}
	t[hash] = name
	return nil
}

// holder names who has a token.
func (t tokens) holder(token string) (name string, ok bool) {
	name, ok = t[sha256.Sum256([]byte(token))]
	return name, ok
}

// has reports whether there is a token for a name.
func (t tokens) has(name string) bool {
	for _, holder := range t {
		if holder == name {
			return true
		}
	}
	return false
}
