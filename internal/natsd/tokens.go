package natsd

import (
	"crypto/sha256"
	"fmt"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/identity"
)

// readTokens replaces the tokens by what the file holds now, or leaves them alone if there is an error.
func (a *authenticator) readTokens() error {
	if a.tokensFile == "" {
		return nil
	}
	tokens := map[[sha256.Size]byte]string{}
	err := identity.ReadTokens(a.tokensFile, func(name, token string) error {
		if name != hubName {
			if err := bus.ValidSite(name); err != nil {
				return err
			}
		}
		hash := sha256.Sum256([]byte(token))
		if other, taken := tokens[hash]; taken {
			return fmt.Errorf("the token of %q is that of %q too", name, other)
		}
		tokens[hash] = name
		return nil
	})
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tokens = tokens
	return nil
}
