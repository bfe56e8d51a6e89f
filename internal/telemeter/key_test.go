package telemeter

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"testing"
	"time"
)

func TestKeys(t *testing.T) {
	long, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ec := func(c elliptic.Curve) *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	must := func(b []byte, err error) []byte {
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	pkcs8 := func(k crypto.PrivateKey) []byte { return must(x509.MarshalPKCS8PrivateKey(k)) }
	armor := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	f := func(name string, file []byte, want string) {
		t.Helper()
		k, err := ParseKey(file)
		if want == "" {
			if err == nil {
				t.Errorf("%s: is taken", name)
			}
			return
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		now := time.Now()
		token, err := k.sign("account", map[string]string{"_id": "a"}, now, time.Hour)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		again, err := ParseKey(must(k.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		c, err := again.verify(token, now)
		if err != nil || c.Subject != "account" || c.Telemeter.Labels["_id"] != "a" || k.method.Alg() != want {
			t.Errorf("%s: %s: %+v, %v", name, k.method.Alg(), c, err)
		}
	}
	p256 := ec(elliptic.P256())
	sec1 := must(x509.MarshalECPrivateKey(p256))
	f("PKCS#1", armor("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(long)), "RS256")
	f("PKCS#1 DER", x509.MarshalPKCS1PrivateKey(long), "RS256")
	f("PKCS#8", armor("PRIVATE KEY", pkcs8(long)), "RS256")
	f("PKCS#8 DER", pkcs8(p256), "ES256")
	f("SEC 1", armor("EC PRIVATE KEY", sec1), "ES256")
	f("SEC 1 of openssl", append(armor("EC PARAMETERS", []byte("x")), armor("EC PRIVATE KEY", sec1)...), "ES256")
	f("SEC 1 DER", sec1, "ES256")
	f("P-384", pkcs8(ec(elliptic.P384())), "ES384")
	f("P-521", pkcs8(ec(elliptic.P521())), "ES512")
	f("P-224", pkcs8(ec(elliptic.P224())), "")
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	f("Ed25519", pkcs8(edwards), "")
	f("parameters alone", armor("EC PARAMETERS", []byte("x")), "")
	f("a public key", armor("PUBLIC KEY", must(x509.MarshalPKIXPublicKey(p256.Public()))), "")
	f("nothing", nil, "")
	f("text", []byte("secret"), "")
}
