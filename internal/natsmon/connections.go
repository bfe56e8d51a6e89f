package natsmon

import (
	"fmt"
	"io"

	"github.com/nats-io/nats-server/v2/server"
)

// connection is what is summed up of each connection: fields of server.ConnInfo.
type connection struct {
	Kind, Type                         string
	Port, Pending, NumSubs             int64
	InMsgs, OutMsgs, InBytes, OutBytes int64
}

func connectionOf(i *server.ConnInfo) connection {
	return connection{
		Kind: i.Kind, Type: i.Type, Port: int64(i.Port), Pending: int64(i.Pending), NumSubs: int64(i.NumSubs),
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
	c.PendingBytes += i.Pending
	c.Subscriptions += i.NumSubs
	c.InMessages += i.InMsgs
	c.OutMessages += i.OutMsgs
	c.InBytes += i.InBytes
	c.OutBytes += i.OutBytes
}

// connectionsPerPage is how many connections are asked for at a time. The server goes through all of them for each page,
// and when some close meanwhile the next page begins too late by as many, so few large pages are best. One is about 10 MiB
// of JSON.
const connectionsPerPage = 16_384

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
// time.
func (c *Connections) decode(r io.Reader) (n int, err error) {
	var (
		s   = newScanner(r)
		one connection
	)
	field := func(key []byte) error { return one.scan(key, s) }
	err = s.object(func(key []byte) error {
		switch string(key) {
		case "total":
			total, err := s.int()
			c.Total = int(total)
			return err
		case "connections":
			return s.array(func() error {
				n++
				one = connection{}
				err := s.object(field)
				c.add(&one)
				return err
			})
		}
		return s.skip()
	})
	if err != nil {
		return n, fmt.Errorf("decode connections: %w", err)
	}
	return n, nil
}

// scan reads the value of a field.
func (c *connection) scan(key []byte, s *scanner) (err error) {
	switch string(key) {
	case "kind":
		c.Kind, err = s.word()
	case "type":
		c.Type, err = s.word()
	case "port":
		c.Port, err = s.int()
	case "pending_bytes":
		c.Pending, err = s.int()
	case "in_msgs":
		c.InMsgs, err = s.int()
	case "out_msgs":
		c.OutMsgs, err = s.int()
	case "in_bytes":
		c.InBytes, err = s.int()
	case "out_bytes":
		c.OutBytes, err = s.int()
	case "subscriptions":
		c.NumSubs, err = s.int()
	default:
		err = s.skip()
	}
	return err
}
