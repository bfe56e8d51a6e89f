package receive

import (
	"crypto/sha256"
	"fmt"
	"regexp"

	"github.com/thalweg/thalweg/internal/identity"
)

// tokens has the name behind each token, by a hash: comparing two of them tells nothing about either.
type tokens map[[sha256.Size]byte]string

// senderName is what a sender, and a site, may be called. It has maxName characters at most.
var senderName = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// maxName is checked apart of the expression, which would be compiled into as many copies at every start.
const maxName = 64

// readTokens reads a file of lines "NAME TOKEN". Its errors quote no token.
func readTokens(path string) (tokens, error) {
	all := tokens{}
	err := identity.ReadTokens(path, all.add)
	return all, err
}

func (t tokens) add(name, token string) error {
	if len(name) > maxName || !senderName.MatchString(name) {
		return fmt.Errorf("name %q is not 1 to 64 letters, digits, _ and -", name)
	}
	hash := sha256.Sum256([]byte(token))
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
