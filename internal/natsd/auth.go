package natsd

import (
	"cmp"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/identity"
)

// hubName is the name in tokens_file, and the user name, of a hub.
const hubName = "@hub"

// joinTime is how long a connection of somebody who only has a join token may last.
const joinTime = time.Minute

// Why a client was refused, a closed set together with the verdicts of package identity.
const (
	refusedPassword    = "password"
	refusedToken       = "unknown_token"
	refusedName        = "token_of_another"
	refusedAnonymous   = "anonymous"
	refusedSite        = "site_name"
	refusedSignature   = "signature"
	refusedCertificate = "certificate_of_another"
	refusedBearer      = "bearer"
	refusedFlood       = "cut_off"
	refusedMQTT        = "mqtt" // a hub, or a join token
)

func refusals() []string {
	return []string{
		refusedPassword, refusedToken, refusedName, refusedAnonymous, refusedSite, refusedSignature, refusedCertificate, refusedBearer, refusedFlood, refusedMQTT,
		string(identity.Unread), string(identity.Unknown), string(identity.Withdrawn),
	}
}

// auditRefused is the event of a client that was not let in, the value of the log attribute audit.
const auditRefused = "client_refused"

// The kinds of credentials, with which what stands behind the slash of a registered user name begins.
const (
	kindLocal     = "local"
	kindAnonymous = "anonymous"
	kindToken     = "token-"
	kindKey       = "key-"
	kindJoin      = "join-"
	kindMTLS      = "certificate"
	kindBearer    = "bearer"
)

// authenticator decides who a client is. It is the server's only source of accounts and permissions.
type authenticator struct {
	permissions     func(site string) *server.Permissions
	joinPermissions func(site string) *server.Permissions
	mqttPermissions func(site string) *server.Permissions
	sites, core     *server.Account
	devices         *server.Account // of MQTT clients
	// secret makes the passwords of in-process clients and the labels of tokens; it is of this process.
	secret         [32]byte
	tokensFile     string
	table          *identity.Table
	confirm        func(site, key string) // is told that a key was used which replaces another
	mtls           bool
	bearer         *bearer // nil: none are accepted
	anonymousSites bool
	anonymousHubs  bool
	log            *slog.Logger
	refused        *prometheus.CounterVec

	mu     sync.Mutex
	tokens map[[sha256.Size]byte]string // SHA-256 of a token to its name
	logged map[string]time.Time
	cut    map[string]time.Time // sites that are refused until then
}

func newAuthenticator(c *Auth, table *identity.Table, log *slog.Logger) (*authenticator, error) {
	a := &authenticator{
		tokensFile: c.TokensFile,
		table:      table,
		mtls:       c.MTLS,
		bearer:     newBearer(&c.OIDC, log),
		log:        log,
		logged:     map[string]time.Time{},
		cut:        map[string]time.Time{},
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

// Check implements server.Authentication.
func (a *authenticator) Check(c server.ClientAuthentication) bool {
	o := c.GetOpts()
	says := claim{
		name: o.Username, password: o.Password, token: o.Token, key: o.Nkey, nonce: string(c.GetNonce()), signature: o.Sig,
	}
	if o.Sig != "" { // so that it can change from connection to connection, a key comes as a token
		says.key = cmp.Or(o.Nkey, o.Token)
	}
	if says.nonce == "" { // the server gives one to all but MQTT clients, whose password is a token
		says.mqtt, says.password = true, ""
	}
	if state := c.GetTLSConnectionState(); a.mtls && state != nil && len(state.VerifiedChains) > 0 {
		says.certificate = state.PeerCertificates[0]
	}
	user, err := a.decide(&says, time.Now())
	if err != nil {
		a.refuse(c, o, err)
		return false
	}
	c.RegisterUser(user)
	return true
}

// claim is what a client says about itself. Only the certificate has been checked.
type claim struct {
	name, password, token string
	key, nonce, signature string
	certificate           *x509.Certificate
	mqtt                  bool
}

// refusal says why a client is not let in.
type refusal struct {
	reason string
	err    error // more about it, or nil
}

func (r *refusal) Error() string { return fmt.Sprintf("%s: %v", r.reason, r.err) }

// decide maps what a client says about itself to a user, or says why not with a *refusal. The user name that is
// registered, which monitoring shows, is the name, a slash, and the kind of credential.
func (a *authenticator) decide(c *claim, now time.Time) (*server.User, error) {
	user, err := a.admit(c, now)
	if err != nil || !c.mqtt {
		return user, err
	}
	site, credential, _ := strings.Cut(user.Username, "/")
	if user.Account != a.sites || strings.HasPrefix(credential, kindJoin) {
		return nil, &refusal{reason: refusedMQTT}
	}
	user.Account, user.Permissions = a.devices, a.mqttPermissions(site)
	return user, nil
}

// admit decides who a client is.
func (a *authenticator) admit(c *claim, now time.Time) (*server.User, error) {
	switch {
	case c.password != "":
		if subtle.ConstantTimeCompare([]byte(c.password), []byte(a.password(c.name))) != 1 {
			return nil, &refusal{reason: refusedPassword}
		}
		return a.user(c.name, kindLocal)
	case c.key != "":
		return a.byKey(c)
	case c.token != "":
		return a.byToken(c, now)
	case c.certificate != nil:
		return a.byCertificate(c)
	case c.name == hubName && a.anonymousHubs:
		return a.user(c.name, kindAnonymous)
	case c.name != hubName && a.anonymousSites && !a.table.Knows(c.name):
		return a.user(c.name, kindAnonymous)
	}
	return nil, &refusal{reason: refusedAnonymous}
}

// byKey admits a site by a key of the registry, whose possession it has proved.
func (a *authenticator) byKey(c *claim) (*server.User, error) {
	if !identity.VerifyNonce(c.key, c.nonce, c.signature) {
		return nil, &refusal{reason: refusedSignature}
	}
	if verdict := a.table.Key(c.name, c.key); verdict != identity.Valid {
		return nil, &refusal{reason: string(verdict), err: fmt.Errorf("key %s", identity.Short(c.key))}
	}
	user, err := a.user(c.name, kindKey+c.key)
	if err == nil && a.table.Replaces(c.name, c.key) {
		a.confirm(c.name, c.key)
	}
	return user, err
}

// byToken admits by a token of the file, a join token or a bearer token.
func (a *authenticator) byToken(c *claim, now time.Time) (*server.User, error) {
	hash := sha256.Sum256([]byte(c.token))
	a.mu.Lock()
	owner, known := a.tokens[hash]
	a.mu.Unlock()
	switch {
	case known && c.name != "" && c.name != owner:
		return nil, &refusal{reason: refusedName}
	case known:
		return a.user(owner, a.label(hash))
	case a.bearer.looksLike(c.token):
		return a.byBearer(c)
	}
	until, verdict := a.table.Join(c.name, c.token, now)
	switch verdict {
	case identity.Valid:
	case identity.BadJoin: // nobody knows what kind of token it was to be
		return nil, &refusal{reason: refusedToken}
	default:
		return nil, &refusal{reason: string(verdict)}
	}
	if limit := now.Add(joinTime); until.After(limit) {
		until = limit
	}
	return &server.User{
		Username: c.name + "/" + kindJoin + a.label(hash), Account: a.sites, Permissions: a.joinPermissions(c.name), ConnectionDeadline: until,
	}, nil
}

// byBearer admits a site for as long as a token of an OpenID provider says.
func (a *authenticator) byBearer(c *claim) (*server.User, error) {
	site, until, err := a.bearer.verify(c.token)
	switch {
	case err != nil:
		return nil, &refusal{reason: refusedBearer, err: err}
	case c.name != "" && c.name != site:
		return nil, &refusal{reason: refusedName}
	case site == hubName:
		return nil, &refusal{reason: refusedSite}
	}
	user, err := a.user(site, kindBearer)
	if err == nil {
		user.ConnectionDeadline = until
	}
	return user, err
}

// byCertificate admits a site by the name in its certificate, for as long as that is valid. Hubs have tokens.
func (a *authenticator) byCertificate(c *claim) (*server.User, error) {
	site := c.certificate.Subject.CommonName
	if site == "" && len(c.certificate.DNSNames) > 0 {
		site, _, _ = strings.Cut(c.certificate.DNSNames[0], ".")
	}
	switch {
	case c.name != "" && c.name != site:
		return nil, &refusal{reason: refusedCertificate, err: fmt.Errorf("the certificate is of %q", site)}
	case site == hubName:
		return nil, &refusal{reason: refusedSite}
	}
	user, err := a.user(site, kindMTLS)
	if err == nil {
		user.ConnectionDeadline = c.certificate.NotAfter
	}
	return user, err
}

func (a *authenticator) user(name, credential string) (*server.User, error) {
	u := &server.User{Username: name + "/" + credential}
	if name == hubName {
		u.Account = a.core
		return u, nil
	}
	if err := bus.ValidSite(name); err != nil {
		return nil, &refusal{reason: refusedSite, err: err}
	}
	if a.isCutOff(name) {
		return nil, &refusal{reason: refusedFlood}
	}
	u.Account = a.sites
	u.Permissions = a.permissions(name)
	return u, nil
}

// password is that of an in-process client.
func (a *authenticator) password(name string) string {
	return hex.EncodeToString(a.mac("password", []byte(name)))
}

// label tells tokens apart without telling what they are.
func (a *authenticator) label(hash [sha256.Size]byte) string {
	return kindToken + hex.EncodeToString(a.mac("label", hash[:])[:4])
}

func (a *authenticator) mac(purpose string, data []byte) []byte {
	m := hmac.New(sha256.New, a.secret[:])
	m.Write([]byte(purpose))
	m.Write([]byte{0})
	m.Write(data)
	return m.Sum(nil)
}

// withdrawn tells which of the registered user names are of credentials that are no longer valid.
func (a *authenticator) withdrawn() func(user string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	valid := make(map[string]bool, len(a.tokens))
	for hash, name := range a.tokens {
		valid[name+"/"+a.label(hash)] = true
	}
	return func(user string) bool {
		name, credential, _ := strings.Cut(user, "/")
		if key, ok := strings.CutPrefix(credential, kindKey); ok {
			verdict := a.table.Key(name, key)
			return verdict != identity.Valid && verdict != identity.Unread
		}
		switch {
		case strings.HasPrefix(credential, kindToken):
			return !valid[user]
		case credential == kindAnonymous:
			return a.table.Knows(name)
		}
		return false
	}
}

// refuse counts and, once a minute for each reason and name, logs.
func (a *authenticator) refuse(c server.ClientAuthentication, o *server.ClientOpts, why error) {
	reason, detail := refusedAnonymous, why
	if r, ok := why.(*refusal); ok {
		reason, detail = r.reason, r.err
	}
	a.refused.WithLabelValues(reason).Inc()
	name := o.Username[:min(len(o.Username), bus.MaxSiteLength)]
	key := reason + " " + name
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
	attributes := []any{"audit", auditRefused, "reason", reason, "user", name, "client", o.Name, "address", c.RemoteAddress()}
	if detail != nil {
		attributes = append(attributes, "err", detail)
	}
	a.log.Warn("client refused", attributes...)
}
