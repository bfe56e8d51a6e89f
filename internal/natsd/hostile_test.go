package natsd_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
)

// TestHostileSite lets a site with a valid credential of its own and a client without scruples try to reach what is
// another's: by publishing, by subscribing, and by making the server or a hub send their answers there.
func TestHostileSite(t *testing.T) {
	t.Run("one server", func(t *testing.T) {
		testHostileSite(t, open(1, bustest.NewServer(t)))
	})
	t.Run("cluster", func(t *testing.T) {
		testHostileSite(t, open(3, bustest.NewCluster(t)...))
	})
	t.Run("external server", func(t *testing.T) { testHostileSite(t, external(t)) })
}

// venue is where it happens: servers, and how somebody connects there.
type venue struct {
	urls     []string
	replicas int
	login    func(name string) func() (bus.Login, error) // nil: the name is enough
	raw      func(name string) nats.Option
}

// open are servers of ours that let everybody in.
func open(replicas int, servers ...*bustest.Server) *venue {
	v := &venue{replicas: replicas, raw: func(name string) nats.Option { return nats.UserInfo(name, "") }}
	for _, s := range servers {
		v.urls = append(v.urls, s.URL())
	}
	return v
}

// conn connects as a site or, if that is "", as a hub.
func (v *venue) conn(t *testing.T, server int, site string) *bus.Conn {
	t.Helper()
	config := bustest.Config(v.urls[server])
	config.Stream.Replicas = v.replicas
	o := bus.Options{Config: config, Site: site}
	if v.login != nil {
		o.Login = v.login(site)
	}
	return bustest.Connected(t, o)
}

// arena is what both sides share in a test.
type arena struct {
	t       *testing.T
	root    bus.Root
	hub     *bus.Conn
	victim  *bus.Conn
	control string // the victim's secret subject, which the attacker is given here
	served  *recorder
	hellos  *recorder
	events  *recorder
	// hubInbox sees everything that reaches an inbox of CORE, of which the attacker is given the name. The inbox of a
	// site of which it is given the name it can reach: those names are random.
	hubInbox *recorder
	attacker *nats.Conn
	refused  *atomic.Int64
}

type recorder struct {
	mu   sync.Mutex
	seen []string
}

func (r *recorder) add(s string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, s)
}

func (r *recorder) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.seen...)
}

const attackerInbox = "_INBOX_b"

func newArena(t *testing.T, v *venue) *arena {
	last := len(v.urls) - 1
	a := &arena{
		t: t, served: &recorder{}, hellos: &recorder{}, events: &recorder{}, hubInbox: &recorder{}, refused: &atomic.Int64{},
	}
	a.hub = v.conn(t, 0, "")
	bustest.EnsureStream(t, a.hub)
	a.root = a.hub.Root()
	a.victim = v.conn(t, last/2, "a")
	a.control = a.root.NewControl("a")
	serve(t, a.victim, a.control, func(subject string, data []byte) []byte {
		a.served.add(string(data))
		return []byte("done")
	})
	serve(t, a.hub, a.root.Hellos(), func(subject string, data []byte) []byte {
		a.hellos.add(subject + " " + string(data))
		return []byte("welcome")
	})
	eavesdropper := rawConnect(t, v.urls[0], v.raw("@hub"), "_INBOX", nil)
	if _, err := eavesdropper.Subscribe("_INBOX.known.*", func(m *nats.Msg) { a.hubInbox.add(m.Subject) }); err != nil {
		t.Fatal(err)
	}
	if _, err := eavesdropper.Subscribe(a.root.AllEvents(), func(m *nats.Msg) { a.events.add(m.Subject) }); err != nil {
		t.Fatal(err)
	}
	flush(t, eavesdropper)
	a.attacker = rawConnect(t, v.urls[last], v.raw("b"), attackerInbox, func(error) { a.refused.Add(1) })
	return a
}

func serve(t *testing.T, c *bus.Conn, subject string, answer func(string, []byte) []byte) {
	t.Helper()
	stop, err := c.Serve(subject, answer)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
}

func rawConnect(t *testing.T, url string, who nats.Option, prefix string, onError func(error)) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(url, who, nats.CustomInboxPrefix(prefix),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			if onError != nil {
				onError(err)
			}
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func flush(t *testing.T, nc *nats.Conn) {
	t.Helper()
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
}

// request is a legal request of the attacker, with an answer.
func (a *arena) request(subject string, data []byte) (*nats.Msg, error) {
	return a.attacker.Request(subject, data, 5*time.Second)
}

func testHostileSite(t *testing.T, v *venue) {
	a := newArena(t, v)
	lane, own := a.root.Lane("a", bus.Live), a.root.Lane("b", bus.Live)
	stolen, err := a.victim.Publish(t.Context(), lane, []byte("true frame"), 0)
	if err != nil {
		t.Fatal(err)
	}
	a.legal(t, own)

	t.Run("publish", func(t *testing.T) { a.publishes(t, lane) })
	t.Run("subscribe", func(t *testing.T) { a.subscribes(t, lane, own) })
	t.Run("reply", func(t *testing.T) { a.replies(t, lane, own) })

	// The same ways are still open to who may use them, and the attempts had time to arrive: what was sent before an
	// answered request of the same connection has been dealt with, by the server that the client is at and, as the
	// stream's leader answers in order, by the stream.
	a.legal(t, own)
	last, err := a.victim.Last(t.Context(), lane)
	if err != nil || last.Sequence != stolen || string(last.Payload) != "true frame" {
		t.Errorf("last message of the victim's lane: %+v, %v; want the true frame at %d", last, err, stolen)
	}
	if m, err := a.victim.Last(t.Context(), a.root.Lane("a", bus.Backfill)); !errors.Is(err, bus.ErrNoMessage) {
		t.Errorf("backfill lane of the victim: %+v, %v; want none", m, err)
	}
	a.sees(t, "victim's control subject", a.served, "legal", "legal")
	for _, hello := range a.hellos.all() {
		if hello != a.root.Hello("a")+" true hello" && !strings.HasPrefix(hello, a.root.Hello("b")) {
			t.Errorf("hub got a forged hello %q", hello)
		}
	}
	for _, event := range a.events.all() {
		if event != a.root.Events("b") {
			t.Errorf("an event of site b arrived as %q", event)
		}
	}
	a.sees(t, "hub's inbox", a.hubInbox)
	if _, err := a.victim.Publish(t.Context(), lane, []byte("next"), stolen); err != nil {
		t.Errorf("publish of the victim after all attempts: %v", err)
	}
}

// legal does everything that the attempts try in a place where it is allowed.
func (a *arena) legal(t *testing.T, own string) {
	t.Helper()
	if m, err := a.request(own, []byte("b's frame")); err != nil || !strings.Contains(string(m.Data), `"seq":`) {
		t.Fatalf("publish on own lane: %v, %v", m, err)
	}
	if m, err := a.request(bus.DirectGetSubject("", "THALWEG", own), nil); err != nil || string(m.Data) != "b's frame" {
		t.Fatalf("direct get of own lane: %v, %v", m, err)
	}
	if m, err := a.request(a.root.Hello("b"), nil); err != nil || string(m.Data) != "welcome" {
		t.Fatalf("hello: %v, %v", m, err)
	}
	if answer, err := a.hub.Request(t.Context(), a.control, []byte("legal")); err != nil || string(answer) != "done" {
		t.Fatalf("control request of the hub: %q, %v", answer, err)
	}
}

func (a *arena) sees(t *testing.T, who string, r *recorder, want ...string) {
	t.Helper()
	if got := r.all(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s saw %q, want %q", who, got, want)
	}
}

// publishes tries subjects that are not the attacker's. Each must come back as a violation.
func (a *arena) publishes(t *testing.T, lane string) {
	create, _ := json.Marshal(map[string]any{"name": "X", "subjects": []string{a.root.AllLanes()}})
	for _, subject := range []string{
		lane, a.root.Lane("a", bus.Backfill), a.root.Hello("a"), a.root.Events("a"), a.root.Enrol("a"), a.control,
		a.root.NewControl("b"),                 // not even its own: only hubs make requests
		strings.Replace(lane, ".a.", ".b.", 1), // its name in the part of another
		"_INBOX_a.known.1", "_INBOX.known.1", "_R_.abcdef", "_GR_.a.b.c",
		"$JS.API.STREAM.INFO.THALWEG", "$JS.API.STREAM.PURGE.THALWEG", "$JS.API.STREAM.DELETE.THALWEG",
		"$JS.API.STREAM.MSG.GET.THALWEG", "$JS.API.STREAM.CREATE.X", "$JS.API.CONSUMER.CREATE.THALWEG",
		"$JS.API.DIRECT.GET.THALWEG", bus.DirectGetSubject("", "THALWEG", lane),
		"$KV.THALWEG_SITES.a", bus.DirectGetSubject("", "KV_THALWEG_SITES", "$KV.THALWEG_SITES.a"), "$JS.ACK.THALWEG.c.1.1.1.1.1", "$JS.FC.x", "$SYS.REQ.SERVER.PING", "$SYS.REQ.ACCOUNT.CORE.CONNZ", "$G.x", "anything",
	} {
		before := a.refused.Load()
		m := nats.NewMsg(subject)
		m.Data = create
		m.Header.Set("Nats-Expected-Last-Subject-Sequence", "1")
		for _, reply := range []string{"", attackerInbox + ".x"} {
			m.Reply = reply
			if err := a.attacker.PublishMsg(m); err != nil {
				t.Fatalf("publish on %q: %v", subject, err)
			}
		}
		flush(t, a.attacker)
		bustest.WaitFor(t, "violation of "+subject, func() bool { return a.refused.Load() >= before+2 })
	}
}

// subscribes tries to listen. Each attempt must come back as a violation, and hear nothing of what is going on.
func (a *arena) subscribes(t *testing.T, lane, own string) {
	heard := &recorder{}
	for _, subject := range []string{
		">", "*.>", "_INBOX.>", "_INBOX_a.>", "_INBOX_*.>", "_INBOX_b_.>", "$JS.>", "_R_.>", "$SYS.>", "_GR_.>",
		a.root.AllLanes(), lane, own, a.root.AllControls(), a.control, a.root.Controls("a"), a.root.Hellos(), a.root.AllEvents(), a.root.Enrols(),
		"_JOIN.>", "_JOIN.b.>", "$KV.>",
	} {
		before := a.refused.Load()
		for _, queue := range []string{"", "workers"} {
			if _, err := a.attacker.QueueSubscribe(subject, queue, func(m *nats.Msg) { heard.add(m.Subject) }); err != nil {
				t.Fatalf("subscribe to %q: %v", subject, err)
			}
		}
		flush(t, a.attacker)
		bustest.WaitFor(t, "violation of "+subject, func() bool { return a.refused.Load() >= before+2 })
	}
	own2, err := a.attacker.SubscribeSync(attackerInbox + ".own")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.victim.Last(t.Context(), lane); err != nil {
		t.Fatal(err)
	}
	if _, err := a.victim.Request(t.Context(), a.root.Hello("a"), []byte("true hello")); err != nil {
		t.Fatal(err)
	}
	if err := a.attacker.PublishRequest(own, attackerInbox+".own", []byte("b's frame")); err != nil {
		t.Fatal(err)
	}
	if _, err := own2.NextMsg(5 * time.Second); err != nil {
		t.Fatalf("own inbox: %v", err)
	}
	if got := heard.all(); len(got) != 0 {
		t.Errorf("heard %q", got)
	}
}

// replies makes legal requests whose answer is to go to a subject of somebody else.
func (a *arena) replies(t *testing.T, lane, own string) {
	requests := []string{
		own, a.root.Lane("b", bus.Backfill), a.root.Hello("b"), a.root.Events("b"), a.root.Enrol("b"),
		bus.DirectGetSubject("", "THALWEG", own), bus.DirectGetSubject("", "THALWEG", a.root.Lane("b", bus.Backfill)),
	}
	targets := []string{
		lane, a.root.Lane("a", bus.Backfill), a.root.Hello("a"), a.root.Events("a"), a.root.Enrol("a"), a.control,
		"$KV.THALWEG_SITES.a", "_INBOX.known.1", "$JS.API.STREAM.PURGE.THALWEG", "$JS.API.STREAM.DELETE.THALWEG", "$JS.API.CONSUMER.CREATE.THALWEG",
		bus.DirectGetSubject("", "THALWEG", lane), "$SYS.REQ.SERVER.PING", "$JS.ACK.THALWEG.c.1.1.1.1.1", "_R_.abcdef", "_GR_.a.b.c",
	}
	for _, request := range requests {
		for _, target := range targets {
			for _, expect := range []string{"", "0", "99"} { // stored, and refused with another answer
				m := nats.NewMsg(request)
				m.Data = []byte("b's frame")
				m.Reply = target
				if expect != "" {
					m.Header.Set("Nats-Expected-Last-Subject-Sequence", expect)
				}
				if err := a.attacker.PublishMsg(m); err != nil {
					t.Fatalf("publish on %q: %v", request, err)
				}
			}
		}
	}
	flush(t, a.attacker)
	if a.attacker.IsClosed() {
		t.Fatal("the attacker's connection is closed")
	}
}

// TestHostileJoin: with a join token of a site one can present a key of that site, and nothing else; not even what is the
// site's, which is at work meanwhile.
func TestHostileJoin(t *testing.T) {
	server := bustest.NewServer(t)
	token := invite(t, server, "a", time.Hour)
	a := newArena(t, open(1, server))
	lane := a.root.Lane("a", bus.Live)
	last, err := a.victim.Publish(t.Context(), lane, []byte("true frame"), 0)
	if err != nil {
		t.Fatal(err)
	}
	inbox := bus.JoinInboxPrefix("a")
	join := nats.Option(func(o *nats.Options) error {
		o.User, o.Token = "a", base64.RawURLEncoding.EncodeToString(token.Secret)
		return nil
	})
	a.attacker = rawConnect(t, server.URL(), join, inbox, func(error) { a.refused.Add(1) })
	violation := func(what string, attempt func() error) {
		t.Helper()
		before := a.refused.Load()
		if err := attempt(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		flush(t, a.attacker)
		bustest.WaitFor(t, "violation: "+what, func() bool { return a.refused.Load() > before })
	}
	direct := bus.DirectGetSubject("", "THALWEG", lane)
	for _, subject := range []string{
		lane, a.root.Lane("a", bus.Backfill), a.root.Hello("a"), a.root.Events("a"), a.root.Enrol("b"), a.control, direct,
		"$KV.THALWEG_SITES.a", "$JS.API.STREAM.INFO.THALWEG", "_INBOX_a.x", "_JOIN.b.x", "anything",
	} {
		violation("publish on "+subject, func() error { return a.attacker.PublishRequest(subject, inbox+".x", nil) })
	}
	for _, subject := range []string{
		">", "_INBOX_a.>", "_JOIN.>", "_JOIN.*.x", "_JOIN.b.>", a.root.Controls("a"), lane, a.root.Enrol("a"), a.root.Enrols(), "$KV.>",
	} {
		violation("subscribe to "+subject, func() error { _, err := a.attacker.SubscribeSync(subject); return err })
	}
	for _, target := range []string{
		lane, a.root.Lane("b", bus.Live), a.root.Hello("a"), a.root.Events("a"), a.root.Enrol("b"), a.control, "_INBOX.known.1",
		"$KV.THALWEG_SITES.a", "$JS.API.STREAM.PURGE.THALWEG", direct,
	} {
		if err := a.attacker.PublishRequest(a.root.Enrol("a"), target, []byte("{}")); err != nil {
			t.Fatal(err)
		}
	}
	if m, err := a.request(a.root.Enrol("a"), []byte("{}")); err != nil || !strings.Contains(string(m.Data), `"refused"`) {
		t.Errorf("request for a key: %v, %v", m, err)
	}
	if m, err := a.victim.Last(t.Context(), lane); err != nil || m.Sequence != last {
		t.Errorf("last message of the victim's lane: %+v, %v; want the true frame at %d", m, err, last)
	}
	if _, err := a.victim.Last(t.Context(), a.root.Lane("b", bus.Live)); err == nil {
		t.Error("a frame is on another lane")
	}
	for who, r := range map[string]*recorder{"victim": a.served, "hub": a.hellos, "events": a.events, "hub's inbox": a.hubInbox} {
		a.sees(t, who, r)
	}
	if records, err := server.Registry().List(t.Context()); err != nil || len(records) != 1 || len(records[0].Keys) != 0 {
		t.Errorf("registry: %+v, %v", records, err)
	}
}
