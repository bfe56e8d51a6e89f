package natsmon

import (
	"bytes"
	"encoding/json"
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// page is the JSON of a page of n connections, as a server writes it.
func page(tb testing.TB, n int) []byte {
	c := server.Connz{Total: n, NumConns: n, Limit: n}
	for i := range n {
		info := &server.ConnInfo{
			Cid: uint64(i), Kind: "Client", Type: "nats", IP: "127.0.0.1", Port: i + 1000, Start: time.Unix(1, 0), RTT: "123µs",
			Uptime: "1h2m3s", Idle: "3s", Name: `a "quoted" {name} \ [x]`, Lang: "go", Version: "1.55.0", Pending: i,
			InMsgs: int64(i) * 3, OutMsgs: int64(i) * 5, InBytes: int64(i) * 7, OutBytes: 1 << 62 / int64(n), NumSubs: uint32(i),
			TLSPeerCerts: []*server.TLSPeerCert{{Subject: "CN=}"}}, Subs: []string{"a", "b]"}, Tags: []string{},
		}
		switch i % 5 {
		case 1:
			info.Kind, info.Type = "Leafnode", ""
		case 2:
			info.Type = "websocket"
		case 3:
			info.Type = "mqtt"
		case 4:
			info.IP, info.Port = "", 0
		}
		c.Conns = append(c.Conns, info)
	}
	text, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		tb.Fatal(err)
	}
	return text
}

// slowly decodes a page with encoding/json.
func slowly(text []byte) (*Connections, error) {
	var c server.Connz
	if err := json.Unmarshal(text, &c); err != nil {
		return nil, err
	}
	sum := newConnections()
	sum.Total = c.Total
	for _, info := range c.Conns {
		one := connectionOf(info)
		sum.add(&one)
	}
	return sum, nil
}

func TestConnectionsAreSummedUp(t *testing.T) {
	text := page(t, 50)
	want, err := slowly(text)
	if err != nil {
		t.Fatal(err)
	}
	if kinds := map[Kind]int{Client: 10, Leaf: 10, WebSocket: 10, MQTT: 10, InProcess: 10}; !maps.Equal(want.ByKind, kinds) {
		t.Fatalf("kinds %v", want.ByKind)
	}
	got := newConnections()
	if n, err := got.decode(bytes.NewReader(text)); err != nil || n != 50 {
		t.Fatalf("%d connections, %v", n, err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// TestBrokenConnections cuts a page at every byte.
func TestBrokenConnections(t *testing.T) {
	text := bytes.TrimSpace(page(t, 3))
	for i := range text {
		if _, err := newConnections().decode(bytes.NewReader(text[:i])); err == nil {
			t.Fatalf("the first %d of %d bytes are enough", i, len(text))
		}
	}
	deep := `{"x":` + strings.Repeat("[", 1<<20)
	if _, err := newConnections().decode(strings.NewReader(deep)); err == nil || !strings.Contains(err.Error(), errDeep.Error()) {
		t.Errorf("deep: %v", err)
	}
}

// FuzzConnections has no answer end the process, and one that encoding/json understands have the same sum.
func FuzzConnections(f *testing.F) {
	f.Add(page(f, 5))
	f.Add([]byte(`{"connections": [{"kind": "Client", "x": {"a": [1, -2.5e+3, true, null, "\u007d\\"]}}, {}], "total": 2}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		got := newConnections()
		_, err := got.decode(bytes.NewReader(text))
		want, slowErr := slowly(text)
		// Where encoding/json is more lenient (upper case in keys, null, escapes in keys) the answer is not one of NATS.
		if err == nil && slowErr == nil && !strings.ContainsAny(string(text), `\ABCDEFGHIJKLMNOPQRSTUVWXYZ`+"ſK") && !reflect.DeepEqual(got, want) {
			t.Errorf("%+v, want %+v", got, want)
		}
	})
}

func BenchmarkConnections(b *testing.B) {
	text := page(b, 10_000)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := newConnections().decode(bytes.NewReader(text)); err != nil {
			b.Fatal(err)
		}
	}
}
