package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"flanneld/network"
	"flanneld/pkg/ip"
	"flanneld/pkg/once"
	"flanneld/pkg/status"
	"flanneld/subnet"
)

// collector makes the status of what the parts of the daemon know.
type collector struct {
	options *options
	systemd *systemd
	started time.Time
	daemon  atomic.Pointer[daemon] // nil while it waits to begin its work
}

func newCollector(o *options) *collector {
	return &collector{options: o, systemd: new(systemd), started: time.Now()}
}

// status returns how the daemon is now.
func (c *collector) status() status.Status {
	name, _ := os.Hostname()
	s := status.Status{Version: version, Host: name, At: time.Now(), Started: c.started, Health: status.Degraded, Problems: []status.Problem{}, Recent: recent.all()}
	s.Store = status.Store{Name: c.options.source().name, Endpoints: c.options.source().endpoints(c.options)}
	d := c.daemon.Load()
	if d == nil {
		s.Waiting = c.waiting()
		return s
	}
	f := d.publisher.now()
	f.describeStore(&s.Store)
	if f.holding.Own == nil {
		s.Waiting = c.waiting()
		return s
	}
	detail := d.reconciler.Detail()
	s.Ready = c.ready() == nil
	f.describeHost(&s)
	for _, k := range detail.Kinds {
		s.Objects = append(s.Objects, status.Kind{Name: k.Kind.String(), Wanted: k.Wanted, Missing: k.Missing, Repairs: k.Repairs})
	}
	s.Problems = append(s.Problems, f.problems(d.publisher.obstacles.Reported())...)
	s.Peers = status.Peers{Count: f.peers, Unusable: f.unusable()}
	for _, p := range f.peerStates(detail) {
		if p.State.Troubled() {
			if s.Peers.TroubledCount++; len(s.Peers.Troubled) < status.NamedMost {
				s.Peers.Troubled = append(s.Peers.Troubled, p)
			}
		}
	}
	if s.Ready && len(s.Problems) == 0 {
		s.Health = status.Healthy
	}
	return s
}

// peers returns how each of the other hosts is, by subnet.
func (c *collector) peers() []status.Peer {
	d := c.daemon.Load()
	if d == nil {
		return nil
	}
	f := d.publisher.now()
	return f.peerStates(d.reconciler.Detail())
}

// describeStore says how the store is.
func (f *facts) describeStore(s *status.Store) {
	s.Since, s.Outages = f.storeSince, f.outages
	if !f.storeDown.IsZero() {
		s.Down, s.Since = true, f.storeDown
		if f.storeFailed != nil {
			s.Reason = f.storeFailed.Error()
		}
	}
}

// describeHost says how this host is in its network.
func (f *facts) describeHost(s *status.Status) {
	own := f.holding.Own
	s.Backend = f.holding.Config.BackendType
	s.Lease = &status.Lease{Subnet: own.Subnet.String(), Expires: own.Expires}
	if f.reconciled.Host.Ifaces() != nil {
		s.MTU = f.backend.MTU(f.reconciled.Host)
	}
	for _, family := range own.Subnet.Families() {
		u := f.host.Of(family)
		s.Network = append(s.Network, status.Family{
			Name: family.String(), Network: f.holding.Config.Of(family).Network, Subnet: own.Subnet.Of(family),
			Iface: u.Iface, Addr: u.Addr, PublicIP: own.PublicIP.Of(family), IfaceMTU: u.MTU, Device: f.backend.Device(f.host, family),
		})
	}
}

// peerStates says how each of the other hosts is, by subnet.
func (f *facts) peerStates(d network.Detail) []status.Peer {
	troubled := make(map[string]status.Peer)
	for _, p := range f.unfit {
		troubled[p.Name()] = status.Peer{Subnet: p.Name(), State: status.PeerUnusable, Reason: p.Reason}
	}
	for s, why := range d.Unusable {
		troubled[s.String()] = status.Peer{Subnet: s.String(), State: status.PeerUnusable, Reason: why}
	}
	peers := make([]status.Peer, 0, len(f.leases)+len(troubled))
	for _, l := range f.leases {
		p := status.Peer{Subnet: l.Subnet.String(), PublicIP: l.PublicIP.String(), State: status.PeerUsed}
		if is, ok := failureOf(d.Failures, l); ok {
			p.State, p.Reason, p.Since = status.PeerMissing, is.Object+": "+is.Reason, is.Since
		}
		for _, part := range l.Subnet.Prefixes() {
			if is, ok := troubled[part.String()]; ok {
				p.State, p.Reason = is.State, is.Reason
				delete(troubled, part.String())
			}
		}
		peers = append(peers, p)
	}
	peers = slices.AppendSeq(peers, maps.Values(troubled))
	slices.SortFunc(peers[len(f.leases):], func(a, b status.Peer) int { return strings.Compare(a.Subnet, b.Subnet) })
	return peers
}

// failureOf returns what could not be had of the objects for a lease.
func failureOf(failures []network.Failure, l *subnet.Lease) (network.Failure, bool) {
	i := slices.IndexFunc(failures, func(f network.Failure) bool {
		return slices.ContainsFunc(l.Subnet.Families(), func(family ip.Family) bool {
			s := l.Subnet.Of(family)
			return f.Lease.Addr() == s.Addr() && (f.Lease.Bits() < 0 || f.Lease == s)
		})
	})
	if i < 0 {
		return network.Failure{}, false
	}
	return failures[i], true
}

// live returns why this process should be started again, if so. That it waits for
// something outside is no reason.
func (c *collector) live(ctx context.Context) error {
	d := c.daemon.Load()
	if d == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	if err := d.tryLock(ctx); err != nil {
		return errors.New("stuck: a part of the daemon does not go on")
	}
	return nil
}

// ready returns why this host has no network, if so.
func (c *collector) ready() error {
	d := c.daemon.Load()
	if d == nil || !d.reconciler.Converged() || !d.publisher.written() {
		return errors.New(notReady + c.waiting())
	}
	if _, err := os.Stat(d.publisher.file); err != nil {
		once.Wake(d.publisher.changed)
		return fmt.Errorf("%s%w", notReady, err)
	}
	return nil
}

// waiting says what there is to wait for before the host has a network.
func (c *collector) waiting() string {
	return strings.TrimPrefix(cmp.Or(c.systemd.latest(), "starting"), notReady)
}
