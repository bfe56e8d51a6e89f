package natsmon

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/nats-io/nats-server/v2/server"
)

// connection is what is summed up of each connection: the fields of server.ConnInfo under the same names.
type connection struct {
	Kind     string `json:"kind"`
	Type     string `json:"type"`
	Port     int    `json:"port"`
	Pending  int    `json:"pending_bytes"`
	InMsgs   int64  `json:"in_msgs"`
	OutMsgs  int64  `json:"out_msgs"`
	InBytes  int64  `json:"in_bytes"`
	OutBytes int64  `json:"out_bytes"`
	NumSubs  uint32 `json:"subscriptions"`
}

func connectionOf(i *server.ConnInfo) connection {
	return connection{
		Kind: i.Kind, Type: i.Type, Port: i.Port, Pending: i.Pending, NumSubs: i.NumSubs,
		InMsgs: i.InMsgs, OutMsgs: i.OutMsgs, InBytes: i.InBytes, OutBytes: i.OutBytes,
	}
}

// kind of the connection. What comes through a pipe within the server's process has no port.
func (c *connection) kind() Kind {
	switch {
	case c.Kind == "Leafnode":
		return Leaf
	case c.Type == "websocket":
		return WebSocket
	case c.Type == "mqtt":
		return MQTT
	case c.Port == 0:
		return InProcess
	}
	return Client
}

// newConnections returns a sum of no connections.
func newConnections() *Connections {
	return &Connections{ByKind: map[Kind]int{Client: 0, WebSocket: 0, MQTT: 0, InProcess: 0, Leaf: 0}}
}

func (c *Connections) add(i *connection) {
	c.ByKind[i.kind()]++
	c.PendingBytes += int64(i.Pending)
	c.Subscriptions += int64(i.NumSubs)
	c.InMessages += i.InMsgs
	c.OutMessages += i.OutMsgs
	c.InBytes += i.InBytes
	c.OutBytes += i.OutBytes
}

// connectionsPerPage is how many connections are asked for at a time. The server goes through all of them for each page,
// and when some close meanwhile the next page begins too late by as many, so few large pages are best. One is about 6 MiB
// of JSON.
const connectionsPerPage = 8192

// readConnections sums up all pages of connections. page adds those of one page to the sum, sets its Total, and returns how
// many they were.
func readConnections(perPage int, page func(sum *Connections, offset, limit int) (int, error)) (*Connections, error) {
	sum := newConnections()
	for offset := 0; ; {
		n, err := page(sum, offset, perPage)
		if err != nil {
			return nil, err
		}
		offset += n
		if n == 0 || offset >= sum.Total {
			return sum, nil
		}
	}
}

// decode adds a page of connections, the JSON of server.Connz, and returns how many they were. It holds one of them at a
// time, but for as many details as are wanted.
func (c *Connections) decode(r io.Reader, details int) (int, error) {
	d := json.NewDecoder(r)
	if err := expect(d, json.Delim('{')); err != nil {
		return 0, err
	}
	n := 0
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return n, err
		}
		switch key {
		case "total":
			err = d.Decode(&c.Total)
		case "connections":
			n, err = c.decodeList(d, details)
		default:
			var other json.RawMessage
			err = d.Decode(&other)
		}
		if err != nil {
			return n, fmt.Errorf("decode %v: %w", key, err)
		}
	}
	return n, expect(d, json.Delim('}'))
}

func (c *Connections) decodeList(d *json.Decoder, details int) (int, error) {
	if err := expect(d, json.Delim('[')); err != nil {
		return 0, err
	}
	n := 0
	for ; d.More(); n++ {
		var one connection
		if len(c.Details) < details {
			info := &server.ConnInfo{}
			if err := d.Decode(info); err != nil {
				return n, err
			}
			c.Details = append(c.Details, info)
			one = connectionOf(info)
		} else if err := d.Decode(&one); err != nil {
			return n, err
		}
		c.add(&one)
	}
	return n, expect(d, json.Delim(']'))
}

func expect(d *json.Decoder, want json.Delim) error {
	got, err := d.Token()
	if err == nil && got != want {
		err = fmt.Errorf("%v is not %v", got, want)
	}
	return err
}
