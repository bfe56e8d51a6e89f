package identity

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/thalweg/thalweg/internal/bus"
)

const (
	// connectPatience is how long a connection is tried, and refusalPatience how long one that is refused: servers
	// learn of new tokens and keys within a second.
	connectPatience = 20 * time.Second
	refusalPatience = 4 * time.Second
	askEvery        = time.Second
)

// Enrolment is a site's side of it.
type Enrolment struct {
	// Dir is the data directory, where the credential will be.
	Dir string
	// Force replaces a credential that is there.
	Force bool
	// Proxy is an HTTP proxy to connect through, "" for none.
	Proxy  string
	Logger *slog.Logger
}

// Enrol makes a key, or takes the one that an interrupted enrolment or NewKey has left, has it registered, and writes
// the credential. If it is interrupted at any point, the same call with the same token finishes it.
func (e *Enrolment) Enrol(ctx context.Context, t *Token) (*Credential, error) {
	file, fresh := CredentialFile(e.Dir), filepath.Join(e.Dir, newFile)
	c, err := e.pending(t.Site)
	if err != nil {
		return nil, err
	}
	if err := e.vacant(); err != nil {
		return nil, err
	}
	if t.JWT != "" {
		if c == nil {
			return nil, fmt.Errorf("enrol: the token is for a key that is not here: %q is missing, which thalweg enrol --new-key makes", fresh)
		}
		if err := isFor(t.JWT, c.Public()); err != nil {
			return nil, fmt.Errorf("enrol: %w", err)
		}
	}
	begun := c != nil && len(c.URLs) > 0
	if c == nil {
		if c, err = newCredential(t.Site); err != nil {
			return nil, err
		}
	}
	c.admit(t)
	if t.JWT == "" {
		// A token that is no longer good may have been used by an attempt of which the answer was lost.
		if err := e.register(ctx, t, c, fresh); err != nil && (!begun || e.works(ctx, c) != nil) {
			return nil, fmt.Errorf("enrol: %w", err)
		}
	}
	return c, e.finish(ctx, c, fresh, file)
}

// register has a key registered for a token. The key is in the file before a hub can know it.
func (e *Enrolment) register(ctx context.Context, t *Token, c *Credential, fresh string) error {
	pin := &pinned{pin: t.Pin, urls: t.URLs}
	options := bus.Options{
		Config: t.BusConfig(), Site: t.Site, Inbox: bus.JoinInboxPrefix(t.Site), LoginSource: "join token",
		Login: func() (bus.Login, error) {
			return bus.Login{Token: base64.RawURLEncoding.EncodeToString(t.Secret)}, nil
		},
	}
	if len(t.Pin) > 0 {
		options.TLS = pin.config()
	}
	conn, err := e.connect(ctx, options)
	if err != nil {
		return err
	}
	defer conn.Close()
	if pin.ca != "" {
		c.CA = pin.ca
	}
	if err := c.write(fresh); err != nil {
		return err
	}
	key, err := c.key()
	if err != nil {
		return err
	}
	request, err := newRequest(t.Site, key, t.Secret, nil)
	if err != nil {
		return err
	}
	return ask(ctx, conn, t.Site, request)
}

// Rotate registers a new key with the present one, and puts it into the credential. A running edge goes over to it by
// itself.
func (e *Enrolment) Rotate(ctx context.Context) (*Credential, error) {
	file, fresh := CredentialFile(e.Dir), filepath.Join(e.Dir, newFile)
	old, err := ReadCredential(file)
	if err != nil {
		return nil, err
	}
	if old.JWT != "" {
		return nil, errors.New("rotate: this key was signed for an external server; make another with --new-key --force and have it signed")
	}
	c, err := e.pending(old.Site)
	if err != nil {
		return nil, err
	}
	if c == nil {
		if c, err = newCredential(old.Site); err != nil {
			return nil, err
		}
	}
	c.URLs, c.CA, c.Root, c.Stream, c.Domain = old.URLs, old.CA, old.Root, old.Stream, old.Domain
	if err := c.write(fresh); err != nil {
		return nil, err
	}
	conn, err := e.connect(ctx, bus.Options{
		Config: old.BusConfig(), Site: old.Site, Login: Login(file, old.Site), LoginSource: "credential " + file,
	})
	if err != nil {
		return nil, fmt.Errorf("rotate: %w", err)
	}
	defer conn.Close()
	key, err := c.key()
	if err != nil {
		return nil, err
	}
	oldKey, err := old.key()
	if err != nil {
		return nil, err
	}
	request, err := newRequest(old.Site, key, nil, oldKey)
	if err != nil {
		return nil, err
	}
	if err := ask(ctx, conn, old.Site, request); err != nil {
		return nil, fmt.Errorf("rotate: %w", err)
	}
	return c, e.finish(ctx, c, fresh, file)
}

// NewKey makes a key for a token that is yet to be signed. What it returns has no addresses.
func (e *Enrolment) NewKey(site string) (*Credential, error) {
	if err := bus.ValidSite(site); err != nil {
		return nil, err
	}
	c, err := e.pending(site)
	if c != nil || err != nil {
		return c, err // asked for again
	}
	if err := e.vacant(); err != nil {
		return nil, err
	}
	if c, err = newCredential(site); err != nil {
		return nil, err
	}
	return c, c.write(filepath.Join(e.Dir, newFile))
}

// pending returns the credential whose registration has begun, nil if there is none.
func (e *Enrolment) pending(site string) (*Credential, error) {
	file := filepath.Join(e.Dir, newFile)
	c, err := ReadCredential(file)
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && c.Site != site && e.Force:
		return nil, nil
	case err != nil:
		return nil, err
	case c.Site != site:
		return nil, fmt.Errorf("an enrolment of site %q has begun here and is not finished; remove %q, or use --force", c.Site, file)
	}
	return c, nil
}

// vacant refuses to replace a credential unasked.
func (e *Enrolment) vacant() error {
	if e.Force {
		return nil
	}
	file := CredentialFile(e.Dir)
	c, err := ReadCredential(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("%w; --force replaces it", err)
	}
	return fmt.Errorf("there is a credential of site %q at %q; --force replaces it, and --rotate changes its key", c.Site, file)
}

// finish puts a registered key into the place of the credential, and sees whether it works.
func (e *Enrolment) finish(ctx context.Context, c *Credential, fresh, file string) error {
	if err := c.write(file); err != nil {
		return err
	}
	if err := os.Remove(fresh); err != nil {
		return fmt.Errorf("remove what is registered now: %w", err)
	}
	if err := e.works(ctx, c); err != nil {
		return fmt.Errorf("the credential is written, but does not work yet: %w", err)
	}
	return nil
}

// works connects with a credential.
func (e *Enrolment) works(ctx context.Context, c *Credential) error {
	conn, err := e.connect(ctx, bus.Options{
		Config: c.BusConfig(), Site: c.Site, LoginSource: "credential of " + e.Dir,
		Login: func() (bus.Login, error) { return c.login(), nil },
	})
	if err == nil {
		conn.Close()
	}
	return err
}

// connect returns when there is a connection.
func (e *Enrolment) connect(ctx context.Context, o bus.Options) (*bus.Conn, error) {
	o.Name, o.Logger, o.Config.ProxyURL = "enrol", e.Logger, e.Proxy
	conn, err := bus.Connect(o)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, connectPatience)
	defer cancel()
	var refused <-chan time.Time // nil until the first refusal
	for {
		state, changed := conn.Watch()
		if state.Connected {
			return conn, nil
		}
		if state.Refused && refused == nil {
			t := time.NewTimer(refusalPatience)
			defer t.Stop()
			refused = t.C
		}
		select {
		case <-changed:
			continue
		case <-refused:
		case <-ctx.Done():
		}
		conn.Close()
		return nil, fmt.Errorf("connect to %s: %s", o.Config.URLs[0], state.Reason)
	}
}

// ask repeats a request until a hub has decided about it.
func ask(ctx context.Context, conn *bus.Conn, site string, request *Request) error {
	data, err := json.Marshal(request)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, connectPatience)
	defer cancel()
	for {
		answer := Answer{}
		text, err := conn.Request(ctx, conn.Root().Enrol(site), data)
		switch {
		case errors.Is(err, bus.ErrNoListener):
			err = errors.New("no hub is there to register the key")
		case err == nil:
			if err = json.Unmarshal(text, &answer); err != nil {
				err = fmt.Errorf("parse answer: %w", err)
			}
		}
		switch {
		case err == nil && answer.Refused == "":
			return nil
		case err == nil && !answer.Again:
			return fmt.Errorf("the hub refuses: %s", answer.Refused)
		case err == nil:
			err = errors.New(answer.Refused)
		}
		t := time.NewTimer(askEvery)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return fmt.Errorf("%w; the same command goes on where this one stopped", err)
		}
	}
}

// isFor checks that a JWT is of a key.
func isFor(token, public string) error {
	claims, err := jwt.DecodeUserClaims(token)
	if err != nil {
		return errors.New("the token holds no user JWT that can be read")
	}
	if claims.Subject != public {
		return fmt.Errorf("the token is for the key %s, here is %s", claims.Subject, public)
	}
	return nil
}
