package telemeter

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"

	"github.com/golang-jwt/jwt/v5"
)

// minRSABits is the shortest RSA key that is taken.
const minRSABits = 2048

// Key signs the tokens of clients, and tells them from others. It is safe for concurrent use.
type Key struct {
	private crypto.Signer
	method  jwt.SigningMethod
}

// NewKey makes a key.
func NewKey() (*Key, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make signing key: %w", err)
	}
	return keyOf(private)
}

// ReadKey reads a key from a file.
func ReadKey(path string) (*Key, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read signing key: %w", err)
	}
	k, err := ParseKey(b)
	if err != nil {
		return nil, fmt.Errorf("read signing key %q: %w", path, err)
	}
	return k, nil
}

// ParseKey takes PEM or DER of PKCS#1, PKCS#8 or SEC 1. Its errors say nothing of the key. PEM blocks of other types, as
// openssl writes them before an EC key, are skipped.
func ParseKey(b []byte) (*Key, error) {
	if block, rest := pem.Decode(b); block != nil {
		for block != nil && block.Type == "EC PARAMETERS" {
			block, rest = pem.Decode(rest)
		}
		if block == nil {
			return nil, errors.New("there are parameters, but no key")
		}
		b = block.Bytes
	}
	if private, err := x509.ParsePKCS1PrivateKey(b); err == nil {
		return keyOf(private)
	}
	if private, err := x509.ParseECPrivateKey(b); err == nil {
		return keyOf(private)
	}
	if private, err := x509.ParsePKCS8PrivateKey(b); err == nil {
		return keyOf(private)
	}
	return nil, errors.New("neither PEM nor DER of an RSA or EC private key without a passphrase")
}

func keyOf(private any) (*Key, error) {
	switch private := private.(type) {
	case *rsa.PrivateKey:
		if bits := private.N.BitLen(); bits < minRSABits {
			return nil, fmt.Errorf("an RSA key of %d bits, less than %d", bits, minRSABits)
		}
		return &Key{private, jwt.SigningMethodRS256}, nil
	case *ecdsa.PrivateKey:
		for _, m := range []*jwt.SigningMethodECDSA{jwt.SigningMethodES256, jwt.SigningMethodES384, jwt.SigningMethodES512} {
			if private.Curve.Params().BitSize == m.CurveBits {
				return &Key{private, m}, nil
			}
		}
		return nil, fmt.Errorf("an EC key of %d bits, not 256, 384 or 521", private.Curve.Params().BitSize)
	}
	return nil, fmt.Errorf("a key of type %T, neither RSA nor EC", private)
}

// Equal reports whether both are the same key.
func (k *Key) Equal(o *Key) bool {
	public, ok := k.private.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(o.private.Public())
}

// Encode returns what ParseKey takes.
func (k *Key) Encode() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.private)
	if err != nil {
		return nil, fmt.Errorf("encode signing key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
