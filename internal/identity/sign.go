package identity

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/thalweg/thalweg/internal/bus"
)

// tagPart is the tag of a user JWT with the part of its site, which the template of the signing key names beside the
// user's name. The name itself is no tag: those are in lower case.
const tagPart = "part:"

// Signature admits a key of a site to an external NATS server, by a scoped signing key of the account of sites:
// docs/security.md has its template.
type Signature struct {
	Site string
	// Public is the site's key, from thalweg enrol --new-key.
	Public string
	// SigningSeed is the private half of the scoped signing key, and Account the public key of its account.
	SigningSeed []byte
	Account     string
	// Lasts is how long the user may connect; 0: until it is revoked.
	Lasts time.Duration
	// Client says how to reach the servers, and CA, in PEM, which certificate vouches for them, "" for one that the
	// system knows.
	Client bus.Config
	CA     string
}

// Sign returns the token that the site is to enrol with. It holds no secret.
func (s *Signature) Sign(now time.Time) (*Token, error) {
	if err := bus.ValidSite(s.Site); err != nil {
		return nil, err
	}
	if !nkeys.IsValidPublicUserKey(s.Public) {
		return nil, fmt.Errorf("%q is not the public key of a user, which begins with U", s.Public)
	}
	if !nkeys.IsValidPublicAccountKey(s.Account) {
		return nil, fmt.Errorf("%q is not the public key of an account, which begins with A", s.Account)
	}
	signer, err := nkeys.ParseDecoratedNKey(s.SigningSeed)
	if err != nil {
		return nil, errors.New("the signing key is not the seed of a key")
	}
	defer signer.Wipe()
	public, err := signer.PublicKey()
	if err != nil || !nkeys.IsValidPublicAccountKey(public) {
		return nil, errors.New("the signing key is not that of an account, whose seed begins with SA")
	}
	if public == s.Account {
		return nil, errors.New("the signing key is the account's own, which has no template: users signed by it could do anything; make a scoped signing key")
	}
	if block, _ := pem.Decode([]byte(s.CA)); s.CA != "" {
		if block == nil {
			return nil, errors.New("the CA is no certificate in PEM")
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return nil, fmt.Errorf("read the CA: %w", err)
		}
	}
	claims := jwt.NewUserClaims(s.Public)
	claims.Name = s.Site
	claims.IssuerAccount = s.Account
	claims.Tags.Add(tagPart + strconv.Itoa(bus.PartOf(s.Site)))
	claims.SetScoped(true)
	if s.Lasts > 0 {
		claims.Expires = now.Add(s.Lasts).Unix()
	}
	t := &Token{Site: s.Site, URLs: s.Client.URLs, CA: s.CA}
	t.SetBusConfig(s.Client)
	if t.JWT, err = claims.Encode(signer); err != nil {
		return nil, fmt.Errorf("sign user: %w", err)
	}
	return t, t.check()
}
