package identity

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/nats-io/nkeys"
)

// maxRequestBytes bounds a request for a key.
const maxRequestBytes = 4 << 10

// Request asks a hub to register a key of a site, for a join token or in place of another key. It is signed by the new
// key, so that nobody registers what is another's, and by the one that is replaced.
type Request struct {
	Key    string `json:"key"`
	Secret []byte `json:"secret,omitempty"`
	// Replaces is a key of the site, of which OldProof is.
	Replaces string `json:"replaces,omitempty"`
	Proof    []byte `json:"proof"`
	OldProof []byte `json:"oldProof,omitempty"`
}

// Answer says what became of a Request.
type Answer struct {
	// Refused says why nothing was registered; "": the key is.
	Refused string `json:"refused,omitempty"`
	// Again means that the reason may go away by itself.
	Again bool `json:"again,omitempty"`
}

// newRequest makes a request with a secret or, if that is empty, in place of the old key.
func newRequest(site string, key nkeys.KeyPair, secret []byte, old nkeys.KeyPair) (*Request, error) {
	r := &Request{Secret: secret}
	var err error
	if r.Key, err = key.PublicKey(); err != nil {
		return nil, err
	}
	if len(secret) == 0 {
		if r.Replaces, err = old.PublicKey(); err != nil {
			return nil, err
		}
		if r.OldProof, err = old.Sign(r.statement(site)); err != nil {
			return nil, err
		}
	}
	r.Proof, err = key.Sign(r.statement(site))
	return r, err
}

// parseRequest returns a request whose proofs are right.
func parseRequest(site string, data []byte) (*Request, error) {
	if len(data) > maxRequestBytes {
		return nil, fmt.Errorf("request has %d bytes", len(data))
	}
	r := &Request{}
	if err := json.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("parse request: %w", err)
	}
	if (len(r.Secret) == 0) == (r.Replaces == "") {
		return nil, fmt.Errorf("request has neither a secret nor a key to replace, or both")
	}
	if err := verify(r.Key, r.statement(site), r.Proof); err != nil {
		return nil, err
	}
	if r.Replaces != "" {
		return r, verify(r.Replaces, r.statement(site), r.OldProof)
	}
	return r, nil
}

// statement is what is signed.
func (r *Request) statement(site string) []byte {
	why := "replaces " + r.Replaces
	if len(r.Secret) > 0 {
		why = "token " + hashSecret(r.Secret)
	}
	return fmt.Appendf(nil, "thalweg enrol v1\nsite %s\nkey %s\n%s\n", site, r.Key, why)
}

// verify reports whether a signature is of a public key of a user.
func verify(public string, statement, signature []byte) error {
	if !nkeys.IsValidPublicUserKey(public) {
		return RefusedProof
	}
	key, err := nkeys.FromPublicKey(public)
	if err != nil {
		return RefusedProof
	}
	if err := key.Verify(statement, signature); err != nil {
		return RefusedProof
	}
	return nil
}

// VerifyNonce reports whether a signature, as a NATS client sends it, is that of a public key.
func VerifyNonce(public, nonce, signature string) bool {
	for _, encoding := range []*base64.Encoding{base64.RawURLEncoding, base64.StdEncoding} { // of old clients
		if raw, err := encoding.DecodeString(signature); err == nil {
			return verify(public, []byte(nonce), raw) == nil
		}
	}
	return false
}

const secretBytes = 20

func newSecret() []byte {
	secret := make([]byte, secretBytes)
	rand.Read(secret)
	return secret
}

// hashSecret is what is stored of a secret. It is random, so nothing slower is needed.
func hashSecret(secret []byte) string {
	hash := sha256.Sum256(secret)
	return hex.EncodeToString(hash[:])
}
