package dataplanetest

import (
	"maps"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/state"
)

// tunnel is one through user space, with its peers.
type tunnel struct {
	is    state.Tunnel
	peers map[netip.Prefix]netip.Addr
}

func (f *Fake) dumpTunnels(have state.Observed) {
	for dev, t := range f.tunnels {
		have[t.is.Key()] = state.Entry{Object: t.is, Owner: state.Ours}
		for subnet, host := range t.peers {
			p := state.TunnelPeer{Dev: dev, Subnet: subnet, Host: host}
			have[p.Key()] = state.Entry{Object: p, Owner: state.Ours}
		}
	}
}

// doTunnel starts a tunnel on a TUN device that is there at the moment; whether
// it was seen before is no matter. One that is replaced keeps its peers.
func (f *Fake) doTunnel(op state.Op) error {
	dev := op.Key().Scope
	if op.Verb == state.Delete {
		f.endTunnel(dev)
		return nil
	}
	was := f.tunnels[dev]
	switch l := f.links[dev]; {
	case was != nil && op.Verb == state.Create:
		return unix.EEXIST
	case l == nil:
		return noLink("there is no interface " + dev)
	case l.foreign(dev):
		return unix.EBUSY
	}
	peers := make(map[netip.Prefix]netip.Addr)
	if was != nil {
		peers = was.peers
	}
	f.tunnels[dev] = &tunnel{op.Want.(state.Tunnel), peers}
	f.links[dev].tun.tunnel = true
	return nil
}

// doPeer tells a tunnel about a peer: to create is to replace.
func (f *Fake) doPeer(op state.Op) error {
	k := op.Key()
	t := f.tunnels[k.Scope]
	switch {
	case t == nil && op.Verb == state.Delete:
	case t == nil:
		return unix.ENOTCONN
	case op.Verb == state.Delete:
		delete(t.peers, k.Prefix)
	default:
		t.peers[k.Prefix] = op.Want.(state.TunnelPeer).Host
	}
	return nil
}

// endTunnel ends the tunnel of a device, if there is one. Of its peers, which
// go along, nothing is told.
func (f *Fake) endTunnel(dev string) {
	if t := f.tunnels[dev]; t != nil {
		delete(f.tunnels, dev)
		f.links[dev].tun.tunnel = false
		f.tell(dataplane.Event{Key: t.is.Key(), Entry: state.Entry{Object: t.is, Owner: state.Ours}, Gone: true})
	}
}

// EndTunnel has the tunnel of a device end by itself.
func (f *Fake) EndTunnel(dev string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.endTunnel(dev)
}

// Tunnels returns the tunnels, by device.
func (f *Fake) Tunnels() []state.Tunnel {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []state.Tunnel
	for _, dev := range sorted(f.tunnels) {
		all = append(all, f.tunnels[dev].is)
	}
	return all
}

// TunnelPeers returns the peers of a device's tunnel, by subnet.
func (f *Fake) TunnelPeers(dev string) []state.TunnelPeer {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.tunnels[dev]
	if t == nil {
		return nil
	}
	var all []state.TunnelPeer
	for _, s := range slices.SortedFunc(maps.Keys(t.peers), netip.Prefix.Compare) {
		all = append(all, state.TunnelPeer{Dev: dev, Subnet: s, Host: t.peers[s]})
	}
	return all
}
