package natsd

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/thalweg/thalweg/internal/bus"
)

// readTokens replaces the tokens by what the file holds now, or leaves them alone if there is an error.
func (a *authenticator) readTokens() error {
	if a.tokensFile == "" {
		return nil
	}
	f, err := os.Open(a.tokensFile)
	if err != nil {
		return fmt.Errorf("read tokens_file: %w", err)
	}
	defer f.Close()
	tokens := map[[sha256.Size]byte]string{}
	var errs []error
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		if err := parseToken(tokens, lines.Text()); err != nil {
			errs = append(errs, fmt.Errorf("read tokens_file %q: line %d: %w", a.tokensFile, n, err))
		}
	}
	if err := lines.Err(); err != nil {
		errs = append(errs, fmt.Errorf("read tokens_file %q: %w", a.tokensFile, err))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tokens = tokens
	return nil
}

// parseToken adds what one line says. Its errors do not quote the token.
func parseToken(tokens map[[sha256.Size]byte]string, line string) error {
	fields := strings.Fields(line)
	if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
		return nil
	}
	name := fields[0]
	if name != hubName {
		if err := bus.ValidSite(name); err != nil {
			return err
		}
	}
	if len(fields) > 2 && strings.HasPrefix(fields[2], "#") {
		fields = fields[:2]
	}
	if len(fields) != 2 {
		return fmt.Errorf("want a name and a token, found %d words beginning with %q", len(fields), name)
	}
	hash := sha256.Sum256([]byte(fields[1]))
	if other, taken := tokens[hash]; taken {
		return fmt.Errorf("the token of %q is that of %q too", name, other)
	}
	tokens[hash] = name
	return nil
}
