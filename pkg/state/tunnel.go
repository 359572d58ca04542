package state

import (
	"fmt"
	"net/netip"
	"strings"
)

// TUN is a TUN device that stays when the process ends, and that is up.
type TUN struct {
	Name string
	MTU  int // bytes
	// Alias is the interface's, by which it is known again: a TUNAlias.
	Alias string
}

const tunAlias = "flanneld "

// TUNAlias is the alias of the TUN device of a network.
func TUNAlias(network netip.Prefix) string { return tunAlias + network.String() }

// IsTUNAlias reports whether an alias is that of some network's TUN device.
func IsTUNAlias(alias string) bool { return strings.HasPrefix(alias, tunAlias) }

// Key is the name.
func (t TUN) Key() Key { return LinkKey(t.Name) }

func (t TUN) String() string {
	return fmt.Sprintf("device %s tun mtu %d alias %q", t.Name, t.MTU, t.Alias)
}

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
func TunnelKey(dev string) Key { return Key{Kind: KindTunnel, Dev: dev} }

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
func (t Tunnel) Needs() Key { return LinkKey(t.Dev) }

// TunnelPeer says at which host the tunnel of Dev finds a subnet.
type TunnelPeer struct {
	Dev    string
	Subnet netip.Prefix
	Host   netip.Addr
}

// Key is the device and the subnet.
func (p TunnelPeer) Key() Key { return Key{Kind: KindTunnelPeer, Dev: p.Dev, Dst: p.Subnet} }

func (p TunnelPeer) String() string {
	return fmt.Sprintf("tunnel peer %s at %s dev %s", p.Subnet, p.Host, p.Dev)
}

// Needs is the tunnel.
func (p TunnelPeer) Needs() Key { return TunnelKey(p.Dev) }
