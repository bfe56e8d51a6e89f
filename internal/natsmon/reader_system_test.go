package natsmon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"github.com/prometheus/common/config"

	"github.com/thalweg/thalweg/internal/bus/bustest"
)

func TestSystemReaderSeesAllServersOfACluster(t *testing.T) {
	servers := startCluster(t, "east", "")
	for i, n := range []int{1, 2, 3} {
		for range n {
			nc, err := nats.Connect(servers[i].ClientURL())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(nc.Close)
		}
	}
	r := readSystem(t, 0, servers[0])
	read := readAll(t, r, "east-0", "east-1", "east-2")
	for i, clients := range []int{2, 2, 3} { // the first has that of the system account too
		s := read[servers[i].name]
		if got := s.Connections.ByKind[Client]; got != clients || s.Varz.Connections != clients {
			t.Errorf("%s has %d clients, %d by varz; want %d", s.Name, got, s.Varz.Connections, clients)
		}
		if s.Cluster != "east" || s.ID != servers[i].ID() || s.At.IsZero() {
			t.Errorf("%s is of cluster %q, has id %q, was read at %v", s.Name, s.Cluster, s.ID, s.At)
		}
		for check, h := range s.Health {
			if h.Status != "ok" {
				t.Errorf("%s: check %s says %q: %s", s.Name, check, h.Status, h.Error)
			}
		}
		if len(s.Health) != len(HealthChecks) || s.JetStream.Meta == nil || len(s.Routes.Routes) == 0 ||
			s.Gateways == nil || s.Leafs == nil || s.Subscriptions == nil || len(s.Accounts.Accounts) == 0 {
			t.Errorf("%s answers in part: %+v", s.Name, s)
		}
	}
}

// Answers of many connections come in pages, those of many streams compressed.
func TestSystemReaderPutsPagesTogether(t *testing.T) {
	p := startPlain(t, "alone", "")
	const clients, perPage = 250, 100
	for range clients {
		nc, err := nats.Connect(p.ClientURL())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
	}
	r := readSystem(t, 1, p)
	r.compat, r.connectionsPerPage = true, perPage
	s := readAll(t, r, "alone")["alone"]
	if got := s.Connections.ByKind[Client]; got != clients+1 {
		t.Errorf("there are %d clients, want %d and the reader", got, clients)
	}
	if s.AccountLimits["APP"] == nil || s.AccountLimits["APP"].ClientCnt != clients {
		t.Errorf("limits of accounts are %+v", s.AccountLimits)
	}
}

func TestSystemReaderBoundsAnswers(t *testing.T) {
	p := startPlain(t, "alone", storeText(t))
	r := readSystem(t, 1, p)
	readAll(t, r, "alone")
	r.limits.responseBytes = 2 << 10 // less than any Jsz, and more than Healthz
	read, err := r.Read(t.Context())
	if err == nil {
		t.Fatalf("read %+v of a server all of whose answers are too long", read[0])
	}
}

// A server that is cut off costs one reading the time to notice, and is reported until it is back.
func TestSystemReaderReportsSilentServers(t *testing.T) {
	addr := freeAddrs(t, 1)[0]
	near := startPlain(t, "near", `cluster {name: east, listen: "`+addr+`"}`)
	proxy := bustest.NewProxy(t, addr)
	far := startPlain(t, "far", `cluster {name: east, listen: "127.0.0.1:-1", no_advertise: true, routes: ["nats://`+proxy.Addr()+`"]}`)
	r := readSystem(t, 0, near)
	readAll(t, r, "near", "far")

	silent := func() *Server {
		t.Helper()
		read, err := r.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range read {
			switch s.Name {
			case "near":
				if len(s.Errors) > 0 {
					t.Errorf("the server that answers has errors: %v", s.Errors)
				}
			case "far":
				if s.Varz == nil {
					return s
				}
			}
		}
		return nil
	}
	proxy.Stall(true)
	if s := silent(); s == nil || !errors.Is(s.Errors[Varz], errSilent) || s.Cluster != "east" || s.ID != far.ID() {
		t.Errorf("of the silent server there is %+v", s)
	}
	// Who did not answer is not waited for.
	r.mu.Lock()
	if awaited := r.last.answered; len(awaited) != 1 {
		t.Errorf("%d servers will be waited for", len(awaited))
	}
	r.mu.Unlock()
	if silent() == nil {
		t.Error("the silent server is not reported any more")
	}
	proxy.Stall(false)
	readAll(t, r, "near", "far")

	// One that is gone for good is forgotten when its place is taken, or after a day.
	far.stop()
	bustest.WaitFor(t, "the server to be gone", func() bool { return silent() != nil })
	far.start(t)
	readAll(t, r, "near", "far")
	far.stop()
	bustest.WaitFor(t, "the server to be gone again", func() bool { return silent() != nil })
	r.now = func() time.Time { return time.Now().Add(forgetAfter + time.Minute) }
	if s := silent(); s != nil {
		t.Errorf("after a day the silent server is still reported: %+v", s)
	}
}

func TestSystemReaderForgetsWhomNobodyExpects(t *testing.T) {
	r := newSystemReader(SystemConfig{URLs: []string{"nats://127.0.0.1:1"}, Expect: 1}, false, defaultLimits(), slog.New(slog.DiscardHandler), time.Now)
	a, b := serverName{"east", "a"}, serverName{"east", "b"}
	r.known[a] = knownServer{answered: time.Now().Add(-2 * forgetAfter)}
	if silent := r.silent(nil, time.Now()); len(silent) != 1 {
		t.Errorf("one server is expected, and %d are reported as silent", len(silent))
	}
	r.known[b] = knownServer{answered: time.Now()}
	if silent := r.silent(map[serverName]bool{b: true}, time.Now()); len(silent) != 0 || len(r.known) != 1 {
		t.Errorf("all that are expected answer, and %d are reported as silent, %d known", len(silent), len(r.known))
	}
}

// A server that answers later than a reading waits is reported as one that does not, every time.
func TestSystemReaderReportsLateServers(t *testing.T) {
	addr := freeAddrs(t, 1)[0]
	near := startPlain(t, "near", `cluster {name: east, listen: "`+addr+`"}`)
	proxy := bustest.NewProxy(t, addr)
	startPlain(t, "far", `cluster {name: east, listen: "127.0.0.1:-1", no_advertise: true, routes: ["nats://`+proxy.Addr()+`"]}`)
	r := readSystem(t, 0, near)
	readAll(t, r, "near", "far")
	proxy.SetLatency(2 * discoverMax)
	for range 3 {
		read, err := r.Read(t.Context())
		if err != nil || len(read) != 2 {
			t.Fatalf("read %d servers, error %v", len(read), err)
		}
		for _, s := range read {
			if late := s.Name == "far"; late != errors.Is(s.Errors[Varz], errSilent) {
				t.Errorf("%s has errors %v", s.Name, s.Errors)
			}
		}
	}
	proxy.SetLatency(0)
	readAll(t, r, "near", "far")
}

func TestSystemReaderSaysWhatIsWrong(t *testing.T) {
	p := startPlain(t, "alone", "")
	fails := func(want string, c SystemConfig) {
		t.Helper()
		r := runSystem(t, c)
		var err error
		bustest.WaitFor(t, "the error "+want, func() bool {
			_, err = r.Read(t.Context())
			if err == nil {
				t.Fatalf("there is no error, want %q", want)
			}
			return strings.Contains(err.Error(), want)
		})
	}
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("wrong"), 0o600); err != nil {
		t.Fatal(err)
	}
	fails("Authorization Violation", SystemConfig{URLs: []string{p.ClientURL()}, Username: "system", PasswordFile: password})
	fails("read password_file", SystemConfig{URLs: []string{p.ClientURL()}, Username: "system", PasswordFile: "absent"})
	fails("of the system account", SystemConfig{URLs: []string{p.ClientURL()}})
	fails("connection refused", SystemConfig{URLs: []string{"nats://" + freeAddrs(t, 1)[0]}})
}

// A user who may do no more than ask can be read with, and by a key, also if its file comes late.
func TestSystemReaderNeedsFewRights(t *testing.T) {
	key := newKey(t, nkeys.CreateUser)
	seed, err := key.pair.Seed()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "seed")
	p := startPlain(t, "alone", `accounts { SYS { users: [{
		nkey: `+key.public+`
		permissions: {publish: "$SYS.REQ.>", subscribe: "_INBOX.thalweg-nats-exporter.>"}
	}] } }`) // which leaves clients no account but $G
	r := runSystem(t, SystemConfig{URLs: []string{p.ClientURL()}, NkeySeedFile: file})
	bustest.WaitFor(t, "an error about the file", func() bool {
		_, err := r.Read(t.Context())
		return errors.Is(err, os.ErrNotExist)
	})
	if err := os.WriteFile(file, seed, 0o600); err != nil {
		t.Fatal(err)
	}
	readAll(t, r, "alone")
}

func TestSystemReaderSpeaksTLS(t *testing.T) {
	cert, key := certificateFiles(t)
	p := startPlain(t, "safe", fmt.Sprintf("tls {cert_file: %q, key_file: %q}", cert, key))
	c := SystemConfig{
		URLs: []string{"tls://" + p.Addr().String()}, Username: "system", PasswordFile: passwordFile(t),
		TLSConfig: config.TLSConfig{CAFile: cert},
	}
	readAll(t, runSystem(t, c), "safe")

	c.TLSConfig = config.TLSConfig{}
	strange := runSystem(t, c)
	bustest.WaitFor(t, "an error about the certificate", func() bool {
		_, err := strange.Read(t.Context())
		return err != nil && strings.Contains(err.Error(), "certificate signed by unknown authority")
	})
}

// A server of an operator, whose users have credentials files.
func TestSystemReaderHasCredentials(t *testing.T) {
	operator, account, user := newKey(t, nkeys.CreateOperator), newKey(t, nkeys.CreateAccount), newKey(t, nkeys.CreateUser)
	sign := func(claims interface {
		Encode(nkeys.KeyPair) (string, error)
	}, by *testKey) string {
		t.Helper()
		token, err := claims.Encode(by.pair)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	owner := jwt.NewOperatorClaims(operator.public)
	owner.SystemAccount = account.public
	p := startPlain(t, "owned", fmt.Sprintf("operator: %s\nsystem_account: %s\nresolver: MEMORY # which has all accounts\nresolver_preload: {%s: %s}",
		sign(owner, operator), account.public, account.public, sign(jwt.NewAccountClaims(account.public), operator)))
	seed, err := user.pair.Seed()
	if err != nil {
		t.Fatal(err)
	}
	credentials, err := jwt.FormatUserConfig(sign(jwt.NewUserClaims(user.public), account), seed)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "system.creds")
	if err := os.WriteFile(file, credentials, 0o600); err != nil {
		t.Fatal(err)
	}
	readAll(t, runSystem(t, SystemConfig{URLs: []string{p.ClientURL()}, CredentialsFile: file}), "owned")
}

// testKey is an nkey.
type testKey struct {
	pair   nkeys.KeyPair
	public string
}

func newKey(t *testing.T, create func() (nkeys.KeyPair, error)) *testKey {
	t.Helper()
	pair, err := create()
	if err != nil {
		t.Fatal(err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return &testKey{pair, public}
}

func TestSystemReaderReturnsToAServer(t *testing.T) {
	p := startPlain(t, "alone", "")
	r := readSystem(t, 0, p)
	before := readAll(t, r, "alone")["alone"].ID
	p.stop()
	bustest.WaitFor(t, "an error", func() bool {
		_, err := r.Read(t.Context())
		return errors.Is(err, errNoConnection)
	})
	p.start(t)
	if after := readAll(t, r, "alone")["alone"].ID; after == before {
		t.Errorf("the server has its id from before its restart, %s", after)
	}
}

// What a reading has when its time is over it returns.
func TestSystemReaderEndsInTime(t *testing.T) {
	p := startPlain(t, "alone", "")
	r := readSystem(t, 5, p) // of which four will never answer
	bustest.WaitFor(t, "a connection", func() bool {
		_, err := r.Read(t.Context())
		return err == nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	read, err := r.Read(ctx)
	if err != nil || len(read) != 1 {
		t.Errorf("read %d servers, error %v", len(read), err)
	}
}
