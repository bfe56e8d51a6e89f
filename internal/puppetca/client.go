package puppetca

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"
)

const (
	// maxBody bounds what a CA may answer.
	maxBody = 1 << 20
	// requestTimeout is of one request.
	requestTimeout = 30 * time.Second
	// renewBefore is how long before its end a certificate may be renewed without being asked to.
	renewBefore = 30 * 24 * time.Hour
)

// Client of one Puppet CA, for one identity. Its fields are not changed once it is in use.
type Client struct {
	// Address of the CA, HOST:PORT.
	Address string
	// Layout says where the files are, and the name in the certificate.
	Layout
	// Fingerprint is the SHA-256 of a certificate of the CA's chain, in hex, with or without colons. "" believes only
	// what is in Dir already, or see TrustFirst.
	Fingerprint string
	// TrustFirst believes the certificate that the network shows, if none is there and no fingerprint is given.
	TrustFirst bool
	// Every is how often it is asked whether the request was signed, and Wait for how long.
	Every, Wait time.Duration
	Logger      *slog.Logger
	Now         func() time.Time

	bits int // of a new key; 0: keyBits
}

// identities are the names that Puppet takes for a certificate; none of them hides a file or leaves a directory.
var identities = regexp.MustCompile(`\A[a-z0-9_-][a-z0-9._-]*\z`)

// maxIdentity is checked apart of the expression, which would be compiled into as many copies at every start.
const maxIdentity = 255

// Validate says what is wrong with the fields.
func (c *Client) Validate() error {
	var errs []error
	if host, port, err := net.SplitHostPort(c.Address); err != nil || host == "" || port == "" {
		errs = append(errs, fmt.Errorf("address of the CA %q is not HOST:PORT", c.Address))
	}
	errs = append(errs, c.Layout.Validate())
	if c.Fingerprint != "" {
		if _, err := parseFingerprint(c.Fingerprint); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// ErrEnrolled is returned by Enrol when everything is there and valid.
var ErrEnrolled = errors.New("this identity has a valid certificate already")

// Enrol makes what is missing: the CA's certificate, a key, a request, and waits until the CA has signed it. ErrEnrolled
// if nothing is missing.
func (c *Client) Enrol(ctx context.Context) error {
	if err := c.Validate(); err != nil {
		return err
	}
	if err := c.makeDirs(); err != nil {
		return err
	}
	ca, err := c.authority(ctx)
	if err != nil {
		return err
	}
	key, err := c.key()
	if err != nil {
		return err
	}
	if cert, err := c.certificate(); err != nil {
		return err
	} else if cert != nil {
		if err := c.check(cert, key, ca); err != nil {
			return fmt.Errorf("certificate %q is there already: %w", c.CertFile(), err)
		}
		return ErrEnrolled
	}
	request, err := c.request(key)
	if err != nil {
		return err
	}
	client := c.http(ca, nil)
	if err := c.submit(ctx, client, request); err != nil {
		return err
	}
	return c.await(ctx, client, func(cert *x509.Certificate) error { return c.check(cert, key, ca) })
}

// Renew replaces a certificate that ends within the next thirty days, or whenever it is forced to, by a new one for the
// same key. It reports whether it did.
func (c *Client) Renew(ctx context.Context, force bool) (bool, error) {
	if err := c.Validate(); err != nil {
		return false, err
	}
	cert, err := c.certificate()
	switch {
	case err != nil:
		return false, err
	case cert == nil:
		return false, fmt.Errorf("there is no certificate %q to renew", c.CertFile())
	case !force && c.now().Before(cert.NotAfter.Add(-renewBefore)):
		return false, nil
	}
	ca, err := c.authority(ctx)
	if err != nil {
		return false, err
	}
	key, err := c.key()
	if err != nil {
		return false, err
	}
	client := c.http(ca, &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key})
	body, code, err := c.do(ctx, client, http.MethodPost, "certificate_renewal", "", nil)
	switch {
	case err != nil:
		return false, fmt.Errorf("renew certificate: %w", err)
	case code == http.StatusNotFound, code == http.StatusForbidden:
		return false, fmt.Errorf("renew certificate: the CA at %s says %d %s: it renews from Puppet 8 on, if its auth.conf allows it. "+
			"With an older one clean %q at the CA, remove %q and enrol again", c.Address, code, http.StatusText(code), c.Identity, c.CertFile())
	case code != http.StatusOK:
		return false, fmt.Errorf("renew certificate: the CA says %d %s: %s", code, http.StatusText(code), brief(body))
	}
	renewed, err := parseCertificate(body)
	if err != nil {
		return false, fmt.Errorf("renew certificate: %w", err)
	}
	if err := c.check(renewed, key, ca); err != nil {
		return false, fmt.Errorf("renew certificate: %w", err)
	}
	return true, write(c.CertFile(), 0o644, body)
}

// submit hands in the request. That the CA has one of this name already is no error: an earlier run may have handed it
// in, and await finds out whether what comes of it belongs to the key.
func (c *Client) submit(ctx context.Context, client *http.Client, request []byte) error {
	body, code, err := c.do(ctx, client, http.MethodPut, "certificate_request/"+c.Identity, "text/plain", request)
	switch {
	case err != nil:
		return fmt.Errorf("hand in certificate request: %w", err)
	case code == http.StatusBadRequest && strings.Contains(string(body), "already has a"):
		c.Logger.Info("the CA has a request or certificate of this name already", "identity", c.Identity, "answer", brief(body))
	case code != http.StatusOK:
		return fmt.Errorf("hand in certificate request: the CA says %d %s: %s", code, http.StatusText(code), brief(body))
	default:
		c.Logger.Info("certificate request handed in; sign it at the CA", "identity", c.Identity, "fingerprint", requestFingerprint(request))
	}
	return nil
}

// await asks for the certificate until the CA has signed it.
func (c *Client) await(ctx context.Context, client *http.Client, check func(*x509.Certificate) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, c.Wait, fmt.Errorf("the request was not signed within %s; the same command goes on from here", c.Wait))
	defer cancel()
	t := time.NewTicker(c.Every)
	defer t.Stop()
	for {
		body, code, err := c.do(ctx, client, http.MethodGet, "certificate/"+c.Identity, "", nil)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("wait for certificate: %w", context.Cause(ctx))
		case err != nil: // a CA may be restarted meanwhile
			c.Logger.Warn("ask for certificate", "err", err)
		case code == http.StatusOK:
			cert, err := parseCertificate(body)
			if err == nil {
				err = check(cert)
			}
			if err != nil {
				return fmt.Errorf("take certificate of %q: %w", c.Identity, err)
			}
			return write(c.CertFile(), 0o644, body)
		case code != http.StatusNotFound:
			return fmt.Errorf("wait for certificate: the CA says %d %s: %s", code, http.StatusText(code), brief(body))
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for certificate: %w", context.Cause(ctx))
		}
	}
}

// do makes one request.
func (c *Client) do(ctx context.Context, client *http.Client, method, what, contentType string, body []byte) ([]byte, int, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	target := url.URL{Scheme: "https", Host: c.Address, Path: "/puppet-ca/v1/" + what, RawQuery: "environment=production"}
	r, err := http.NewRequestWithContext(ctx, method, target.String(), bytes.NewReader(body))
	if err != nil {
		return nil, 0, err
	}
	r.Header.Set("Accept", "text/plain")
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	answer, err := client.Do(r)
	if err != nil {
		return nil, 0, err
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(io.LimitReader(answer.Body, maxBody+1))
	if len(b) > maxBody {
		err = fmt.Errorf("answer is longer than %d bytes", maxBody)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("%s %s: %w", method, target.Path, err)
	}
	return b, answer.StatusCode, nil
}

// http returns a client that believes the CA and nobody else.
func (c *Client) http(ca *authority, own *tls.Certificate) *http.Client {
	config := &tls.Config{RootCAs: ca.pool, MinVersion: tls.VersionTLS12}
	if own != nil {
		config.Certificates = []tls.Certificate{*own}
	}
	return httpClient(config)
}

func httpClient(config *tls.Config) *http.Client {
	return &http.Client{
		Transport:     &http.Transport{TLSClientConfig: config, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func (c *Client) now() time.Time {
	if c.Now != nil {
		return c.Now()
	}
	return time.Now()
}

// brief is what a person wants to see of an answer.
func brief(body []byte) string {
	s := strings.Join(strings.Fields(string(body)), " ")
	if len(s) > 200 {
		s = s[:200] + "..."
	}
	return s
}
