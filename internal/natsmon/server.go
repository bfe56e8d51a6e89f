package natsmon

import (
	"cmp"
	"context"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Reader reads one target: the server in this process, a monitoring URL, or the servers behind a system account.
type Reader interface {
	// Name of the target, for people and as the label target: a URL without credentials, or "embedded".
	Name() string
	// Read returns what each server of the target says now. Servers that answer in part are returned in part. An error
	// says that there is no answer at all. It returns soon after ctx ends, with what is there by then. It is called by one
	// goroutine at a time.
	Read(ctx context.Context) ([]*Server, error)
}

// Endpoint is what a server can be asked for, under the name that its monitoring port has for it. The set is closed.
type Endpoint string

// The endpoints that are read.
const (
	Varz     Endpoint = "varz"
	Healthz  Endpoint = "healthz"
	Connz    Endpoint = "connz"
	Routez   Endpoint = "routez"
	Gatewayz Endpoint = "gatewayz"
	Leafz    Endpoint = "leafz"
	Subsz    Endpoint = "subsz"
	Accstatz Endpoint = "accstatz"
	Accountz Endpoint = "accountz"
	Jsz      Endpoint = "jsz"
)

// Server is what one server says at one moment. What was not answered is nil.
type Server struct {
	// Cluster and Name are the labels of its series. Cluster is "" where the server is alone.
	Cluster, Name, ID string
	// Address is HOST:PORT of the monitoring port that it was read through, with the path if there is one; else "".
	Address string
	// Domain of JetStream, or "".
	Domain string
	// At is when the reading began, by the clock of this process.
	At time.Time

	Varz *server.Varz
	// Health has an answer for each of HealthChecks, by name.
	Health        map[string]*server.HealthStatus
	Connections   *Connections
	Routes        *server.Routez
	Gateways      *server.Gatewayz
	Leafs         *server.Leafz
	Subscriptions *server.Subsz
	Accounts      *server.AccountStatz
	// AccountLimits are what Accountz says of each account, by name. Only where Config.Compat needs them.
	AccountLimits map[string]*server.AccountInfo
	// JetStream has all pages of Jsz in one, with the configuration of streams. Streams and consumers are there from
	// whoever knows them; who leads is in their Cluster.
	JetStream *server.JSInfo
	// Disk is the file system of the store; nil where it cannot be known.
	Disk *Disk
	// Wire is nil where the kernel does not count for this server: then bytes on the wire are estimated.
	Wire *Wire
	// Own is how many of the connections are in-process ones of this program, and OwnTotal how many there have been. They
	// are not in Connections, and have to be subtracted from Connections and TotalConnections of Varz. What is left of
	// TotalConnections then never goes back.
	Own      int
	OwnTotal uint64

	// Errors are the endpoints that did not answer, with why.
	Errors map[Endpoint]error
}

// label is what its series are called by: the name. A server to which nobody gave one has its ID for a name, another one with
// each start; then it is the address, if that is known.
func (s *Server) label() string {
	if s.Address != "" && (s.Name == "" || s.Name == s.ID) {
		return s.Address
	}
	return cmp.Or(s.Name, s.ID)
}

// key is cluster and label, which no two servers share that have metrics.
func (s *Server) key() [2]string { return [2]string{s.Cluster, s.label()} }

// Connections sums up all pages of Connz: Thalweg's own are left out.
type Connections struct {
	// ByKind counts them by Kind.
	ByKind map[Kind]int
	// PendingBytes wait to be sent to them, all together.
	PendingBytes int64
	// Subscriptions of them all.
	Subscriptions int64
	// Messages and Bytes (headers and body), in and out, of the connections that are open.
	InMessages, OutMessages, InBytes, OutBytes int64
	// Total is how many the server says there are, in all pages.
	Total int
}

// Kind of a connection. The set is closed.
type Kind string

// The kinds of connections.
const (
	Client    Kind = "client"
	WebSocket Kind = "websocket"
	MQTT      Kind = "mqtt"
	InProcess Kind = "inprocess"
	Leaf      Kind = "leaf"
	Route     Kind = "route"
	Gateway   Kind = "gateway"
)

// Disk is a file system: bytes that are left, and bytes that it has.
type Disk struct{ Free, Size uint64 }

// Wire is what the kernel has counted on the TCP connections of a server since this process began to count: payload of TCP,
// with TLS and WebSocket framing, without retransmissions. The counts never go back.
type Wire struct {
	Received, Sent map[Kind]uint64
}

// HealthChecks are the checks that Health has answers for: the names with the options of Healthz. That of everything is asked
// for details, which say which streams cannot be written to.
var HealthChecks = map[string]server.HealthzOptions{
	healthOfAll:            {Details: true},
	"jetstream_enabled":    {JSEnabledOnly: true},
	"jetstream_server":     {JSServerOnly: true},
	"jetstream_meta_layer": {JSMetaOnly: true},
}
