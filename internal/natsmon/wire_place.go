package natsmon

import (
	"context"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// wirePlace is what is known of where a server is, beside what it says itself.
type wirePlace struct {
	own     bool             // it is in this process
	client  *net.TCPAddr     // own: where it accepts clients, or nil
	reached []netip.AddrPort // not own: the addresses of this host by which it was reached, if any
}

// wirePort is a port at which a server accepts connections that count, which those of monitoring do not.
type wirePort struct {
	kind Kind
	host string
	port int
}

func wirePorts(v *server.Varz, client *net.TCPAddr) []wirePort {
	all := []wirePort{
		{Client, v.Host, v.Port},
		{Leaf, v.LeafNode.Host, v.LeafNode.Port},
		{Route, v.Cluster.Host, v.Cluster.Port},
		{Gateway, v.Gateway.Host, v.Gateway.Port},
		{WebSocket, v.Websocket.Host, v.Websocket.Port},
		{MQTT, v.MQTT.Host, v.MQTT.Port},
	}
	if client != nil {
		all[0] = wirePort{Client, client.IP.String(), client.Port}
	}
	return slices.DeleteFunc(all, func(p wirePort) bool { return p.port <= 0 })
}

// listenersOf finds the listening sockets of the ports. A port can be open at several addresses, of several servers: then it is
// the one at the address that the server names, if there is one. Any address at all is that
// of IPv6. Missing is whether a port was not found.
func listenersOf(listening []netip.AddrPort, ports []wirePort) (found map[netip.AddrPort]Kind, missing bool) {
	found = map[netip.AddrPort]Kind{}
	for _, p := range ports {
		var at []netip.AddrPort
		for _, a := range listening {
			if int(a.Port()) == p.port {
				at = append(at, a)
			}
		}
		if host, err := netip.ParseAddr(p.host); err == nil {
			named := netip.AddrPortFrom(host.Unmap().WithZone(""), uint16(p.port))
			if slices.Contains(at, named) {
				at = []netip.AddrPort{named}
			}
		}
		missing = missing || len(at) == 0
		for _, a := range at {
			if a.Addr().IsUnspecified() {
				a = netip.AddrPortFrom(netip.IPv6Unspecified(), a.Port())
			}
			found[a] = p.kind
		}
	}
	return found, missing
}

// acceptedAt finds what belongs to the listening socket that a connection came in at.
func acceptedAt[T any](listeners map[netip.AddrPort]T, local netip.AddrPort) (T, bool) {
	t, ok := listeners[local]
	if !ok {
		t, ok = listeners[netip.AddrPortFrom(netip.IPv6Unspecified(), local.Port())]
	}
	return t, ok
}

// has reports whether a server is here: all its ports are open here, it was reached through one of them at an address of
// this host, and its clients come in through sockets of this host. The ports alone say little: all servers of a cluster
// have the same ones.
func (p wirePlace) has(s *Server, r wireReading) bool {
	if r.missing {
		return false
	}
	numbers := []int{s.Varz.HTTPPort, s.Varz.HTTPSPort}
	for _, own := range r.ports {
		numbers = append(numbers, own.port)
	}
	direct := slices.ContainsFunc(p.reached, func(a netip.AddrPort) bool {
		// A server that had its port of monitoring chosen by the kernel says -1.
		return (slices.Contains(numbers, int(a.Port())) || slices.Contains(numbers, server.RANDOM_PORT)) &&
			slices.ContainsFunc(r.listening, func(l netip.AddrPort) bool {
				return l == a || l.Addr().IsUnspecified() && l.Port() == a.Port()
			})
	})
	if !direct {
		return false
	}
	if s.Connections == nil {
		return true
	}
	clients := 0
	for i := range r.open {
		if r.open[i].inode == 0 {
			continue
		}
		switch kind, _ := acceptedAt(r.accepts, r.open[i].local); kind {
		case Client, WebSocket, MQTT:
			clients++
		}
	}
	// Half, because they come and go between the two readings. A forwarded port has one, or none.
	said := s.Connections.ByKind
	return 2*clients >= said[Client]+said[WebSocket]+said[MQTT]
}

// addressOf is the address of a server that the connection of the system account goes to, "" if it goes to another one.
func (r *systemReader) addressOf(id string) string {
	r.mu.Lock()
	nc := r.nc
	r.mu.Unlock()
	if nc == nil || nc.ConnectedServerId() != id {
		return ""
	}
	return nc.ConnectedAddr()
}

// resolveTimeout is short: the name was resolved a moment ago, to read the server.
const resolveTimeout = time.Second

// hostPort is where a URL leads to.
func hostPort(u *url.URL) string {
	port := u.Port()
	switch {
	case port != "":
	case u.Scheme == "https":
		port = "443"
	default:
		port = "80"
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// localAddresses resolves HOST:PORT, and returns the addresses that are of this host.
func localAddresses(hostPort string) []netip.AddrPort {
	host, p, err := net.SplitHostPort(hostPort)
	if err != nil {
		return nil
	}
	port, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), resolveTimeout)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil
	}
	interfaces, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var local []netip.AddrPort
	for _, a := range addresses {
		a = a.Unmap().WithZone("")
		ofHost := func(i net.Addr) bool {
			n, ok := i.(*net.IPNet)
			return ok && n.IP.Equal(a.AsSlice())
		}
		if a.IsLoopback() || slices.ContainsFunc(interfaces, ofHost) {
			local = append(local, netip.AddrPortFrom(a, uint16(port)))
		}
	}
	return local
}

// outgoingOf returns where a server has connected to, and how often: the remote ends of leafs, routes and gateways. Of leafs it
// is not said who has connected; the spoke has, or the port is one that the configuration names.
func outgoingOf(s *Server) map[netip.AddrPort]wireOutgoing {
	all := map[netip.AddrPort]wireOutgoing{}
	add := func(kind Kind, ip string, port int) {
		a, err := netip.ParseAddr(ip)
		if err != nil || port <= 0 || port > 1<<16-1 {
			return
		}
		remote := netip.AddrPortFrom(a.Unmap().WithZone(""), uint16(port))
		all[remote] = wireOutgoing{kind, all[remote].n + 1}
	}
	if s.Leafs != nil {
		configured := leafPorts(s.Varz)
		for _, l := range s.Leafs.Leafs {
			if l.IsSpoke || slices.Contains(configured, strconv.Itoa(l.Port)) {
				add(Leaf, l.IP, l.Port)
			}
		}
	}
	if s.Routes != nil {
		for _, r := range s.Routes.Routes {
			if r.DidSolicit {
				add(Route, r.IP, r.Port)
			}
		}
	}
	if s.Gateways != nil {
		for _, g := range s.Gateways.OutboundGateways {
			if g.Connection != nil {
				add(Gateway, g.Connection.IP, g.Connection.Port)
			}
		}
	}
	return all
}

// leafPorts are those of the hubs to which a server is told to connect.
func leafPorts(v *server.Varz) []string {
	var all []string
	for _, r := range v.LeafNode.Remotes {
		for _, hostPort := range r.URLs {
			if _, port, err := net.SplitHostPort(hostPort); err == nil {
				all = append(all, port)
			}
		}
	}
	return all
}
