package telemeter

import (
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// What telemeter-server puts into its tokens.
const (
	issuer   = "telemeter.selfsigned"
	audience = "telemeter-client"
)

// clockSkew is how far the clocks of hubs may be apart.
const clockSkew = time.Minute

// claims are the content of a token. Subject is the account that the authority named.
type claims struct {
	jwt.RegisteredClaims
	Telemeter struct {
		Labels map[string]string `json:"labels"`
	} `json:"telemeter.openshift.io"`
}

// sign makes a token that says which labels its bearer's series have.
func (k *Key) sign(account string, labels map[string]string, now time.Time, lasts time.Duration) (string, error) {
	c := claims{RegisteredClaims: jwt.RegisteredClaims{
		Issuer: issuer, Subject: account, Audience: jwt.ClaimStrings{audience},
		IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(lasts)),
	}}
	c.Telemeter.Labels = labels
	token, err := jwt.NewWithClaims(k.method, &c).SignedString(k.private)
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return token, nil
}

// verify returns the content of a token that a hub with the same key signed.
func (k *Key) verify(token string, now time.Time) (*claims, error) {
	var c claims
	_, err := jwt.ParseWithClaims(token, &c, func(*jwt.Token) (any, error) { return k.private.Public(), nil },
		jwt.WithValidMethods([]string{k.method.Alg()}), jwt.WithIssuer(issuer), jwt.WithAudience(audience),
		jwt.WithExpirationRequired(), jwt.WithLeeway(clockSkew), jwt.WithTimeFunc(func() time.Time { return now }))
	if err != nil {
		return nil, fmt.Errorf("verify token: %w", err)
	}
	return &c, nil
}
