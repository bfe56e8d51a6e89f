package natsd_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
	"github.com/thalweg/thalweg/internal/identity"
)

// operator is somebody who runs NATS servers that know nothing of Thalweg, and has set them up as docs/security.md says.
type operator struct {
	t           *testing.T
	key         nkeys.KeyPair
	core, sites nkeys.KeyPair // of the accounts
	signing     nkeys.KeyPair // the scoped key of SITES
	claims      *jwt.AccountClaims
	server      *server.Server
}

// external is a server of such an operator.
func external(t *testing.T) *venue {
	o := newOperator(t)
	return &venue{
		urls: []string{o.server.ClientURL()}, replicas: 1,
		login: func(site string) func() (bus.Login, error) {
			if site == "" {
				site = "@hub"
			}
			token, key := o.user(site)
			return func() (bus.Login, error) { return bus.Login{Key: token, Sign: key.Sign}, nil }
		},
		raw: func(name string) nats.Option {
			token, key := o.user(name)
			return nats.UserJWT(func() (string, error) { return token, nil }, key.Sign)
		},
	}
}

func (o *operator) must(err error) {
	o.t.Helper()
	if err != nil {
		o.t.Fatal(err)
	}
}

func (o *operator) make(create func() (nkeys.KeyPair, error)) (nkeys.KeyPair, string) {
	o.t.Helper()
	key, err := create()
	o.must(err)
	public, err := key.PublicKey()
	o.must(err)
	return key, public
}

func newOperator(t *testing.T) *operator {
	o := &operator{t: t}
	var operatorPublic, corePublic, sitesPublic, signingPublic string
	o.key, operatorPublic = o.make(nkeys.CreateOperator)
	o.core, corePublic = o.make(nkeys.CreateAccount)
	o.sites, sitesPublic = o.make(nkeys.CreateAccount)
	o.signing, signingPublic = o.make(nkeys.CreateAccount)
	_, systemPublic := o.make(nkeys.CreateAccount)

	root := bus.DefaultRoot
	core := jwt.NewAccountClaims(corePublic)
	core.Name = "CORE"
	core.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: -1, DiskStorage: -1, Streams: -1, Consumer: -1}
	core.Exports.Add(&jwt.Export{Name: "thalweg", Subject: ">", Type: jwt.Service, TokenReq: true})
	core.Imports.Add(&jwt.Import{
		Name: "controls", Account: sitesPublic, Subject: jwt.Subject(root.AllControls()), Type: jwt.Service,
		Token: o.activation(corePublic, root.AllControls(), o.sites),
	})
	sites := jwt.NewAccountClaims(sitesPublic)
	sites.Name = "SITES"
	sites.Exports.Add(&jwt.Export{Name: "controls", Subject: jwt.Subject(root.AllControls()), Type: jwt.Service, TokenReq: true})
	for _, subject := range []string{
		root.AllLanes(), root.Hellos(), root.AllEvents(), bus.DirectGetSubject("", "THALWEG", root.AllLanes()),
	} {
		sites.Imports.Add(&jwt.Import{
			Name: subject, Account: corePublic, Subject: jwt.Subject(subject), Type: jwt.Service,
			Token: o.activation(sitesPublic, subject, o.core),
		})
	}
	scope := jwt.NewUserScope()
	scope.Key, scope.Role = signingPublic, "site"
	lane := "thalweg.v1.lane.{{tag(part)}}.{{name()}}."
	for _, subject := range []string{
		lane + "live", lane + "backfill", "$JS.API.DIRECT.GET.THALWEG." + lane + "live", "$JS.API.DIRECT.GET.THALWEG." + lane + "backfill",
		"thalweg.v1.hello.{{name()}}", "thalweg.v1.events.{{name()}}",
	} {
		scope.Template.Pub.Allow.Add(subject)
	}
	scope.Template.Sub.Allow.Add("_INBOX_{{name()}}.>", "thalweg.v1.ctl.{{name()}}.*")
	scope.Template.Resp = &jwt.ResponsePermission{MaxMsgs: 1, Expires: 5 * time.Second}
	sites.SigningKeys.AddScopedSigner(scope)
	o.claims = sites

	resolver := &server.MemAccResolver{}
	system := jwt.NewAccountClaims(systemPublic)
	system.Name = "SYS"
	for _, claims := range []*jwt.AccountClaims{core, sites, system} {
		var problems jwt.ValidationResults
		claims.Validate(&problems)
		for _, p := range problems.Issues {
			t.Logf("account %s: %s", claims.Name, p.Description)
		}
		text, err := claims.Encode(o.key)
		o.must(err)
		o.must(resolver.Store(claims.Subject, text))
	}
	trusted := jwt.NewOperatorClaims(operatorPublic)
	trusted.SystemAccount = systemPublic
	text, err := trusted.Encode(o.key)
	o.must(err)
	trusted, err = jwt.DecodeOperatorClaims(text)
	o.must(err)
	o.server, err = server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: filepath.Join(t.TempDir(), "external"), NoSigs: true, NoLog: true,
		TrustedOperators: []*jwt.OperatorClaims{trusted}, AccountResolver: resolver, SystemAccount: systemPublic,
	})
	o.must(err)
	o.server.Start()
	t.Cleanup(func() { o.server.Shutdown(); o.server.WaitForShutdown() })
	bustest.WaitFor(t, "server", func() bool { return o.server.ReadyForConnections(100 * time.Millisecond) })
	return o
}

// activation lets an account import what another exports.
func (o *operator) activation(importer, subject string, exporter nkeys.KeyPair) string {
	claims := jwt.NewActivationClaims(importer)
	claims.Name = "thalweg"
	claims.ImportSubject, claims.ImportType = jwt.Subject(subject), jwt.Service
	text, err := claims.Encode(exporter)
	o.must(err)
	return text
}

// user is the JWT and the key of a hub, or of a site as "thalweg site sign" makes it.
func (o *operator) user(name string) (string, nkeys.KeyPair) {
	o.t.Helper()
	key, public := o.make(nkeys.CreateUser)
	if name != "@hub" {
		return o.sign(name, public).JWT, key
	}
	text, err := jwt.NewUserClaims(public).Encode(o.core)
	o.must(err)
	return text, key
}

func (o *operator) sign(site, public string) *identity.Token {
	o.t.Helper()
	seed, err := o.signing.Seed()
	o.must(err)
	account, err := o.sites.PublicKey()
	o.must(err)
	s := identity.Signature{Site: site, Public: public, SigningSeed: seed, Account: account, Client: bustest.Config(o.server.ClientURL())}
	token, err := s.Sign(time.Now())
	o.must(err)
	token, err = identity.ParseToken(token.String())
	o.must(err)
	return token
}

// TestExternalServer: a site joins a server that is not ours, and its key is revoked there.
func TestExternalServer(t *testing.T) {
	o := newOperator(t)
	token, key := o.user("@hub")
	hub := bustest.Connected(t, bus.Options{Config: bustest.Config(o.server.ClientURL()), Login: func() (bus.Login, error) {
		return bus.Login{Key: token, Sign: key.Sign}, nil
	}})
	bustest.EnsureStream(t, hub)
	const site = "AMS-1" // tags are in lower case, names are not
	e := identity.Enrolment{Dir: t.TempDir(), Logger: bustest.Logger(t)}
	c, err := e.NewKey(site)
	if err != nil {
		t.Fatal(err)
	}
	signed := o.sign(site, c.Public())
	if _, err := enrol(t, t.TempDir(), signed); err == nil || !strings.Contains(err.Error(), "for a key that is not here") {
		t.Errorf("token without the key: %v", err)
	}
	if _, err := e.Enrol(t.Context(), signed); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Rotate(t.Context()); err == nil || !strings.Contains(err.Error(), "--new-key") {
		t.Errorf("rotation: %v", err)
	}
	conn := edge(t, e.Dir)
	connected(t, conn)
	lane := conn.Root().Lane(site, bus.Live)
	sequence, err := conn.Publish(t.Context(), lane, []byte("row"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if m, err := conn.Last(t.Context(), lane); err != nil || m.Sequence != sequence {
		t.Errorf("last message: %+v, %v", m, err)
	}

	// As nsc revocations add-user and nsc push do.
	o.claims.Revoke(c.Public())
	text, err := o.claims.Encode(o.key)
	o.must(err)
	o.must(o.server.AccountResolver().Store(o.claims.Subject, text))
	account, err := o.server.LookupAccount(o.claims.Subject)
	o.must(err)
	o.server.UpdateAccountClaims(account, o.claims)
	refused(t, conn)
}

func TestSign(t *testing.T) {
	o := &operator{t: t}
	signing, _ := o.make(nkeys.CreateAccount)
	seed, err := signing.Seed()
	o.must(err)
	_, account := o.make(nkeys.CreateAccount)
	user, public := o.make(nkeys.CreateUser)
	userSeed, err := user.Seed()
	o.must(err)
	f := func(what, want string, change func(*identity.Signature)) {
		t.Helper()
		s := identity.Signature{Site: "a", Public: public, Account: account, SigningSeed: seed, Client: bustest.Config("tls://hub:4222")}
		change(&s)
		_, err := s.Sign(time.Now())
		if fmt.Sprint(err) == "<nil>" != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", what, err, want)
		}
	}
	f("right", "", func(*identity.Signature) {})
	f("name", `site name "a.b"`, func(s *identity.Signature) { s.Site = "a.b" })
	f("account as user", "not the public key of a user", func(s *identity.Signature) { s.Public = account })
	f("user as account", "not the public key of an account", func(s *identity.Signature) { s.Account = public })
	f("user signs", "whose seed begins with SA", func(s *identity.Signature) { s.SigningSeed = userSeed })
	f("no seed", "not the seed of a key", func(s *identity.Signature) { s.SigningSeed = []byte("x") })
	f("account's own key", "no template", func(s *identity.Signature) { s.Account, _ = signing.PublicKey() })
	f("no address", "0 addresses", func(s *identity.Signature) { s.Client.URLs = nil })
	f("CA", "no certificate", func(s *identity.Signature) { s.CA = "x" })
}
