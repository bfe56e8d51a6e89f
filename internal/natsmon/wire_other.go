//go:build !linux

package natsmon

import (
	"errors"
	"fmt"
	"net/netip"
)

// Only Linux tells of each connection how many bytes it has carried.
var errNoWire = fmt.Errorf("count bytes on the wire: %w", errors.ErrUnsupported)

func listeningSockets() ([]netip.AddrPort, error) { return nil, errNoWire }

func connectedSockets([]wireEnd) ([]tcpSocket, error) { return nil, errNoWire }

func ownSockets([]uint32) (map[uint32]bool, error) { return nil, errNoWire }

type destroyedSockets struct{}

func followDestroyed(int) (*destroyedSockets, error) { return nil, errNoWire }

func (*destroyedSockets) only([]wireEnd) error { return errNoWire }

func (*destroyedSockets) next(func(*tcpSocket)) error { return errNoWire }

func (*destroyedSockets) Close() error { return nil }
