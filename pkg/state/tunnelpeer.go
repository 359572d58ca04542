package state

import (
	"fmt"
	"net/netip"
)

// TunnelPeer says at which host the tunnel of Dev finds a subnet.
type TunnelPeer struct {
	Dev    string
	Subnet netip.Prefix
	Host   netip.Addr
}

// Key is the device and the subnet.
func (p TunnelPeer) Key() Key { return Key{Kind: KindTunnelPeer, Scope: p.Dev, Prefix: p.Subnet} }

func (p TunnelPeer) String() string {
	return fmt.Sprintf("tunnel peer %s at %s dev %s", p.Subnet, p.Host, p.Dev)
}

// Needs is the tunnel.
func (p TunnelPeer) Needs() []Key { return []Key{TunnelKey(p.Dev)} }

// Owned is true: all tunnels are of this process.
func (TunnelPeer) Owned(*Ownership) bool { return true }

// FlushedBy is for when the device goes.
func (p TunnelPeer) FlushedBy(op Op) bool { return op.Flushes(p.Dev) == FlushAll }

// LeaseSubnet is the peer's.
func (p TunnelPeer) LeaseSubnet() netip.Prefix { return p.Subnet }

// Path is by datagrams.
func (p TunnelPeer) Path() Path { return Path{Dst: p.Subnet, Host: p.Host} }
