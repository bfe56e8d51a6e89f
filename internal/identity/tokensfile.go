package identity

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"
)

// ReadTokens reads a file of lines "NAME TOKEN", where # begins a comment, and hands each on. Its error names every line
// that is wrong or refused, and quotes no token.
func ReadTokens(path string, each func(name, token string) error) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read tokens_file: %w", err)
	}
	defer f.Close()
	var errs []error
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		if err := readToken(lines.Text(), each); err != nil {
			errs = append(errs, fmt.Errorf("read tokens_file %q: line %d: %w", path, n, err))
		}
	}
	if err := lines.Err(); err != nil {
		errs = append(errs, fmt.Errorf("read tokens_file %q: %w", path, err))
	}
	return errors.Join(errs...)
}

func readToken(line string, each func(name, token string) error) error {
	fields := strings.Fields(line)
	if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
		return nil
	}
	if len(fields) > 2 && strings.HasPrefix(fields[2], "#") {
		fields = fields[:2]
	}
	if len(fields) != 2 {
		return fmt.Errorf("want a name and a token, found %d words beginning with %q", len(fields), fields[0])
	}
	return each(fields[0], fields[1])
}
