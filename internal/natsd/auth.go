package natsd

import (
	"bufio"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/thalweg/thalweg/internal/bus"
)

// hubName is the name in tokens_file, and the user name, of a hub.
const hubName = "@hub"

// Why a client was refused, a closed set.
const (
	refusedPassword  = "password"
	refusedToken     = "unknown_token"
	refusedName      = "token_of_another"
	refusedAnonymous = "anonymous"
	refusedSite      = "site_name"
)

func refusals() []string {
	return []string{refusedPassword, refusedToken, refusedName, refusedAnonymous, refusedSite}
}

// authenticator decides who a client is. It is the server's only source of accounts and permissions.
type authenticator struct {
	permissions func(site string) *server.Permissions
	sites, core *server.Account
	// secret makes the passwords of in-process clients and the labels of tokens; it is of this process.
	secret         [32]byte
	tokensFile     string
	anonymousSites bool
	anonymousHubs  bool
	log            *slog.Logger
	refused        *prometheus.CounterVec

	mu     sync.Mutex
	tokens map[[sha256.Size]byte]string // SHA-256 of a token to its name
	logged map[string]time.Time
}

func newAuthenticator(tokensFile string, log *slog.Logger) (*authenticator, error) {
	a := &authenticator{
		tokensFile: tokensFile,
		log:        log,
		logged:     map[string]time.Time{},
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "thalweg_natsd_refused_clients_total",
			Help: "Clients that the embedded server did not let in, by reason.",
		}, []string{"reason"}),
	}
	for _, reason := range refusals() {
		a.refused.WithLabelValues(reason)
	}
	rand.Read(a.secret[:])
	return a, a.readTokens()
}

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

// Check implements server.Authentication.
func (a *authenticator) Check(c server.ClientAuthentication) bool {
	o := c.GetOpts()
	user, reason := a.decide(o.Username, o.Password, o.Token)
	if user == nil {
		a.refuse(c, o, reason)
		return false
	}
	c.RegisterUser(user)
	return true
}

// decide maps what a client says about itself to a user, or says why not. The user name that is registered, which
// monitoring shows, is the name, a slash, and the kind of credential.
func (a *authenticator) decide(name, password, token string) (user *server.User, reason string) {
	switch {
	case password != "":
		if subtle.ConstantTimeCompare([]byte(password), []byte(a.password(name))) != 1 {
			return nil, refusedPassword
		}
		return a.user(name, "local")
	case token != "":
		hash := sha256.Sum256([]byte(token))
		a.mu.Lock()
		owner, known := a.tokens[hash]
		a.mu.Unlock()
		switch {
		case !known:
			return nil, refusedToken
		case name != "" && name != owner:
			return nil, refusedName
		}
		return a.user(owner, a.label(hash))
	case name == hubName && a.anonymousHubs, name != hubName && a.anonymousSites:
		return a.user(name, "anonymous")
	}
	return nil, refusedAnonymous
}

func (a *authenticator) user(name, credential string) (*server.User, string) {
	u := &server.User{Username: name + "/" + credential}
	if name == hubName {
		u.Account = a.core
		return u, ""
	}
	if bus.ValidSite(name) != nil {
		return nil, refusedSite
	}
	u.Account = a.sites
	u.Permissions = a.permissions(name)
	return u, ""
}

// password is that of an in-process client.
func (a *authenticator) password(name string) string {
	return hex.EncodeToString(a.mac("password", []byte(name)))
}

// label tells tokens apart without telling what they are.
func (a *authenticator) label(hash [sha256.Size]byte) string {
	return "token-" + hex.EncodeToString(a.mac("label", hash[:])[:4])
}

func (a *authenticator) mac(purpose string, data []byte) []byte {
	m := hmac.New(sha256.New, a.secret[:])
	m.Write([]byte(purpose))
	m.Write([]byte{0})
	m.Write(data)
	return m.Sum(nil)
}

// revoked tells which of the registered user names are of tokens that are no longer valid.
func (a *authenticator) revoked() func(user string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	valid := make(map[string]bool, len(a.tokens))
	for hash, name := range a.tokens {
		valid[name+"/"+a.label(hash)] = true
	}
	return func(user string) bool {
		_, credential, _ := strings.Cut(user, "/")
		return strings.HasPrefix(credential, "token-") && !valid[user]
	}
}

// refuse counts and, once a minute for each reason and name, logs.
func (a *authenticator) refuse(c server.ClientAuthentication, o *server.ClientOpts, reason string) {
	a.refused.WithLabelValues(reason).Inc()
	key := reason + " " + o.Username
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	if now.Sub(a.logged[key]) < time.Minute {
		return
	}
	if len(a.logged) >= 1000 {
		clear(a.logged)
	}
	a.logged[key] = now
	name := o.Username
	if len(name) > bus.MaxSiteLength {
		name = name[:bus.MaxSiteLength]
	}
	a.log.Warn("client refused", "reason", reason, "user", name, "client", o.Name, "address", c.RemoteAddress())
}
