package natsmon

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Of linux/inet_diag.h and linux/sock_diag.h: what is asked, and what comes back, has no types in x/sys.
const (
	diagRequestSize = 56 // struct inet_diag_req_v2
	diagMessageSize = 72 // struct inet_diag_msg
	diagInfo        = 2  // INET_DIAG_INFO, the attribute of an answer with struct tcp_info
	diagFilter      = 1  // INET_DIAG_REQ_BYTECODE, the attribute of a request with a filter
)

// Offsets in struct tcp_info, which has grown at its end: the first two are there since Linux 4.1, the others since 4.19.
const (
	infoBytesAcked    = 120
	infoBytesReceived = 128
	infoBytesSent     = 200
	infoBytesRetrans  = 208
)

// States of sockets that have, or may still get, a stream. In TIME_WAIT and SYN_RECV there is none.
const diagConnected = 1<<unix.BPF_TCP_ESTABLISHED | 1<<unix.BPF_TCP_FIN_WAIT1 | 1<<unix.BPF_TCP_FIN_WAIT2 |
	1<<unix.BPF_TCP_CLOSE_WAIT | 1<<unix.BPF_TCP_LAST_ACK | 1<<unix.BPF_TCP_CLOSING

// netlinkBuffer is as large as the parts that the kernel cuts an answer into get.
const netlinkBuffer = 32 << 10

// errOldKernel: tcp_info of Linux before 4.1.
var errOldKernel = errors.New("the kernel does not count bytes of connections")

// listeningSockets returns where TCP sockets of this network namespace listen.
func listeningSockets() ([]netip.AddrPort, error) {
	var all []netip.AddrPort
	err := eachSocket(1<<unix.BPF_TCP_LISTEN, nil, func(m []byte) error {
		all = append(all, diagAddrPort(m, diagLocal))
		return nil
	})
	return all, err
}

// connectedSockets returns the connected TCP sockets of this network namespace that have one of the ports; all of them if it
// is too many ports.
func connectedSockets(ports []wireEnd) ([]tcpSocket, error) {
	var all []tcpSocket
	err := eachSocket(diagConnected, socketFilter(ports), func(m []byte) error {
		s, ok, err := parseSocket(m)
		if ok {
			all = append(all, s)
		}
		return err
	})
	return all, err
}

// eachSocket calls f with an inet_diag_msg of each socket that has one of the states and passes the filter.
func eachSocket(states uint32, filter []byte, f func([]byte) error) error {
	c, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, &netlink.Config{MessageBufferSize: netlinkBuffer})
	if err != nil {
		return fmt.Errorf("open netlink socket: %w", err)
	}
	defer c.Close()
	// The kernel answers in the call; this is for one that does not.
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return fmt.Errorf("set deadline of netlink socket: %w", err)
	}
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		err := eachOfFamily(c, family, states, filter, f)
		if family == unix.AF_INET6 && errors.Is(err, unix.ENOENT) {
			return nil // a kernel without IPv6
		}
		if err != nil {
			return fmt.Errorf("read sockets of family %d: %w", family, err)
		}
	}
	return nil
}

func eachOfFamily(c *netlink.Conn, family byte, states uint32, filter []byte, f func([]byte) error) error {
	request := make([]byte, diagRequestSize, diagRequestSize+unix.SizeofNlAttr+len(filter))
	request[0], request[1], request[2] = family, unix.IPPROTO_TCP, 1<<(diagInfo-1)
	binary.NativeEndian.PutUint32(request[4:], states)
	if len(filter) > 0 {
		request = binary.NativeEndian.AppendUint16(request, uint16(unix.SizeofNlAttr+len(filter)))
		request = binary.NativeEndian.AppendUint16(request, diagFilter)
		request = append(request, filter...)
	}
	_, err := c.Send(netlink.Message{
		Header: netlink.Header{Type: unix.SOCK_DIAG_BY_FAMILY, Flags: netlink.Request | netlink.Dump},
		Data:   request,
	})
	if err != nil {
		return err
	}
	for m, err := range c.ReceiveIter() {
		if err != nil {
			return err
		}
		if len(m.Data) < diagMessageSize {
			return fmt.Errorf("answer of %d bytes is too short", len(m.Data))
		}
		if err := f(m.Data); err != nil {
			return err
		}
	}
	return nil
}

// Instructions of struct inet_diag_bc_op: two jumps, in bytes, and for a condition a struct inet_diag_hostcond with a port.
const (
	filterJump   = 1 // INET_DIAG_BC_JMP
	filterLocal  = 7 // INET_DIAG_BC_S_COND
	filterRemote = 8 // INET_DIAG_BC_D_COND

	filterJumpSize = 4
	filterCondSize = 12
)

// socketFilter is a program for the kernel that a socket passes with any of the ports. Without it a host with many other
// connections would spend most of the time of a reading on those.
func socketFilter(ports []wireEnd) []byte {
	if len(ports) > maxWireEnds {
		return nil
	}
	var program []byte
	for i, p := range ports {
		code := byte(filterLocal)
		if p.remote {
			code = filterRemote
		}
		// If so, go on with the jump behind, which leads to the end; else to the next condition, or behind the end.
		program = append(program, code, filterCondSize)
		program = binary.NativeEndian.AppendUint16(program, filterCondSize+filterJumpSize)
		program = append(program, unix.AF_UNSPEC, 0, 0, 0)
		program = binary.NativeEndian.AppendUint32(program, uint32(p.port))
		if rest := len(ports) - 1 - i; rest > 0 {
			program = append(program, filterJump, filterJumpSize)
			toEnd := filterJumpSize + rest*filterCondSize + (rest-1)*filterJumpSize
			program = binary.NativeEndian.AppendUint16(program, uint16(toEnd))
		}
	}
	return program
}

// parseSocket reads an inet_diag_msg. It returns false for what is left of a socket in FIN_WAIT2, which has no stream.
func parseSocket(b []byte) (tcpSocket, bool, error) {
	s := tcpSocket{
		cookie: binary.NativeEndian.Uint64(b[44:]),
		inode:  binary.NativeEndian.Uint32(b[68:]),
		local:  diagAddrPort(b, diagLocal),
		remote: diagAddrPort(b, diagRemote),
	}
	for b = b[diagMessageSize:]; len(b) >= unix.SizeofNlAttr; {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofNlAttr || size > len(b) {
			return s, false, fmt.Errorf("attribute of %d bytes where %d are left", size, len(b))
		}
		if binary.NativeEndian.Uint16(b[2:]) == diagInfo {
			err := s.count(b[unix.SizeofNlAttr:size])
			return s, err == nil, err
		}
		b = b[min(len(b), (size+unix.NLA_ALIGNTO-1)&^(unix.NLA_ALIGNTO-1)):]
	}
	return s, false, nil
}

// The ends of a connection in an inet_diag_msg: where the port is, and the address.
var (
	diagLocal  = diagEnd{4, 8}
	diagRemote = diagEnd{6, 24}
)

type diagEnd struct{ port, address int }

func diagAddrPort(m []byte, end diagEnd) netip.AddrPort {
	port := binary.BigEndian.Uint16(m[end.port:])
	if m[0] == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(m[end.address:])), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(m[end.address:])).Unmap(), port)
}

// count reads a tcp_info.
func (s *tcpSocket) count(info []byte) error {
	at := func(offset int) uint64 { return binary.NativeEndian.Uint64(info[offset:]) }
	switch {
	case len(info) >= infoBytesRetrans+8:
		s.sent = at(infoBytesSent) - min(at(infoBytesSent), at(infoBytesRetrans))
	case len(info) >= infoBytesReceived+8:
		s.sent = max(at(infoBytesAcked), 1) - 1 // the SYN
	default:
		return errOldKernel
	}
	s.received = at(infoBytesReceived)
	return nil
}

// destroyedSockets hands in each TCP socket of this network namespace when it is destroyed.
type destroyedSockets struct{ conn *netlink.Conn }

// followDestroyed has the kernel keep destroyed sockets, in so many bytes at most. It may allow less.
func followDestroyed(buffer int) (*destroyedSockets, error) {
	c, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, &netlink.Config{
		Groups:            1<<(unix.SKNLGRP_INET_TCP_DESTROY-1) | 1<<(unix.SKNLGRP_INET6_TCP_DESTROY-1),
		MessageBufferSize: netlinkBuffer,
	})
	if err != nil {
		return nil, fmt.Errorf("follow destroyed sockets: %w", err)
	}
	if err := c.SetReadBuffer(buffer); err != nil {
		return nil, errors.Join(fmt.Errorf("set netlink receive buffer to %d bytes: %w", buffer, err), c.Close())
	}
	return &destroyedSockets{c}, nil
}

// Where struct inet_diag_msg has its ports, behind struct nlmsghdr.
const (
	eventLocalPort  = unix.SizeofNlMsghdr + 4
	eventRemotePort = unix.SizeofNlMsghdr + 6
)

// only has the kernel hand in no others than sockets with one of the ports. On a busy host most have nothing to do with
// NATS; they would cost time, and the room for the others.
func (d *destroyedSockets) only(ports []wireEnd) error {
	if len(ports) > maxWireEnds {
		if err := d.conn.RemoveBPF(); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("follow all destroyed sockets: %w", err)
		}
		return nil
	}
	var program []bpf.Instruction
	for i, p := range ports {
		from := uint32(eventLocalPort)
		if p.remote {
			from = eventRemotePort
		}
		toEnd := 2*(len(ports)-i) - 1
		program = append(program,
			bpf.LoadAbsolute{Off: from, Size: 2},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(p.port), SkipTrue: uint8(toEnd)})
	}
	program = append(program, bpf.RetConstant{Val: 0}, bpf.RetConstant{Val: math.MaxUint32})
	raw, err := bpf.Assemble(program)
	if err != nil {
		return fmt.Errorf("assemble filter of %d ports: %w", len(ports), err)
	}
	if err := d.conn.SetBPF(raw); err != nil {
		return fmt.Errorf("filter destroyed sockets: %w", err)
	}
	return nil
}

// next waits for sockets. errOverflow says that there were more than could be kept; the next call goes on.
func (d *destroyedSockets) next(each func(*tcpSocket)) error {
	for m, err := range d.conn.ReceiveIter() {
		if errors.Is(err, unix.ENOBUFS) {
			return errOverflow
		}
		if err != nil {
			return fmt.Errorf("receive destroyed sockets: %w", err)
		}
		if len(m.Data) < diagMessageSize {
			return fmt.Errorf("destroyed socket of %d bytes is too short", len(m.Data))
		}
		s, ok, err := parseSocket(m.Data)
		if err != nil {
			return fmt.Errorf("destroyed socket: %w", err)
		}
		if ok {
			each(&s)
		}
	}
	return nil
}

// Close makes next return.
func (d *destroyedSockets) Close() error { return d.conn.Close() }

// ownSockets returns which of the inodes are of sockets that this process has open.
func ownSockets(inodes []uint32) (map[uint32]bool, error) {
	const fds = "/proc/self/fd"
	entries, err := os.ReadDir(fds)
	if err != nil {
		return nil, fmt.Errorf("list own sockets: %w", err)
	}
	asked := make(map[uint32]bool, len(inodes))
	for _, inode := range inodes {
		asked[inode] = true
	}
	own := map[uint32]bool{}
	for _, e := range entries {
		target, err := os.Readlink(fds + "/" + e.Name())
		if err != nil {
			continue // closed meanwhile
		}
		number, ok := strings.CutPrefix(target, "socket:[")
		if !ok {
			continue
		}
		if inode, err := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 32); err == nil && asked[uint32(inode)] {
			own[uint32(inode)] = true
		}
	}
	return own, nil
}
