package state

import (
	"fmt"
	"net/netip"

	"flanneld/pkg/ip"
)

// Tunnel carries packets between a TUN device and other hosts, each in a UDP
// datagram.
type Tunnel struct {
	Dev string
	// Local is where datagrams come in and leave from. The peers have the same
	// port.
	Local netip.AddrPort
	// Own is this host's subnet, and Network that in which all are.
	Own, Network netip.Prefix
	MTU          int // of the device
	// SourceCheck drops what comes from a host that has no lease, or not that of its
	// source, if the source is in Network.
	SourceCheck bool
}

// TunnelKey is the key of the tunnel of a device.
func TunnelKey(dev string) Key { return Key{Kind: KindTunnel, Scope: dev} }

// Key is the device.
func (t Tunnel) Key() Key { return TunnelKey(t.Dev) }

func (t Tunnel) String() string {
	s := fmt.Sprintf("tunnel of %s for %s at %s", t.Dev, t.Own, t.Local)
	if !t.SourceCheck {
		s += " without source check"
	}
	return s
}

// Needs is the device.
func (t Tunnel) Needs() []Key { return []Key{LinkKey(t.Dev)} }

// Owned is true: all tunnels are of this process.
func (Tunnel) Owned(*Ownership) bool { return true }

// FlushedBy is for when the device goes.
func (t Tunnel) FlushedBy(op Op) bool { return op.Flushes(t.Dev) == FlushAll }

// Essential is true.
func (Tunnel) Essential() bool { return true }

// Datagrams come from the port that they go to.
func (t Tunnel) Datagrams() Datagrams {
	return Datagrams{Dev: t.Dev, Family: ip.FamilyOf(t.Local.Addr()), Port: t.Local.Port(), SrcPort: t.Local.Port()}
}
