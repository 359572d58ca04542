package subnet

import (
	"errors"
	"fmt"
	"slices"

	"flanneld/pkg/ip"
	"flanneld/pkg/printable"
)

// Where the store chooses the subnet of each host, as Kubernetes does by the podCIDR of a
// Node, nothing is to be chosen, renewed or fought for. The host waits until it has a subnet
// that it can serve, publishes its lease, and holds it: what others take from the store
// is published again, and what the store takes back stays in force until it gives something
// else.

// heedAssignment fails while the host cannot live by what it is given.
type heedAssignment struct{}

func (heedAssignment) start(t *turn) (action, error) {
	err := t.unassignable(t.attempt.config, t.listed)
	if err == nil {
		return nil, nil
	}
	if t.holding.Own != nil { // it follows the others all the same
		t.follow(t.listed)
	}
	return nil, waitingFor{err}
}

// given returns what this host lives by under a configuration: what the store gives, or what it
// has, if that gives nothing now.
func (t *turn) given(c *Config) ip.Subnet {
	if a := t.holding.Snapshot.Own; a != nil && a.Subnet.IsValid() {
		return c.part(a.Subnet)
	}
	return c.part(t.holding.Own.Subnet)
}

// unassignable returns why the host cannot live by what it is given, if so.
func (t *turn) unassignable(c *Config, s Snapshot) error {
	a := s.Own
	if !a.Subnet.IsValid() {
		return errors.New(a.Missing)
	}
	host := printable.Name(a.Host)
	if holder := t.holder(s.Find(c.part(a.Subnet))); holder != "" {
		return fmt.Errorf("%s, the podCIDR of this host's Node %s, is also that of %s, which is older and has it: delete the Node %s and have kubelet register it anew, so that it gets another one",
			a.Subnet, host, holder, host)
	}
	for _, f := range c.families() {
		p := a.Subnet.Of(f.Family)
		switch winner := t.winner(c, f, s, a.Subnet); {
		case !p.IsValid():
			return fmt.Errorf("the Node %s has no %s podCIDR, but %s, and the configuration has Enable%s: kube-controller-manager gives a Node one of each address family if --cluster-cidr names a network of each, and only when the Node is registered: delete the Node and have kubelet register it anew, or set Enable%s to false",
				host, f.Family, a.Subnet, f.Family, f.Family)
		case !f.covers(p):
			return &ConfigError{
				Key: networkKey(f.Family), Value: f.Network.String(),
				Reason: fmt.Sprintf("does not hold %s, the podCIDR of this host's Node %s: kube-controller-manager's --cluster-cidr and %s have to be the same", p, host, networkKey(f.Family)),
			}
		case winner == nil:
		case f.of(winner) == p:
			return fmt.Errorf("%s, the podCIDR of this host's Node %s, is also that of the Node %s, which is older and has it: delete the Node %s and have kubelet register it anew, so that it gets another one",
				p, host, printable.Name(winner.Machine), host)
		default:
			return fmt.Errorf("%s, the podCIDR of this host's Node %s, overlaps %s, that of the Node %s, which goes before: delete one of the two and have kubelet register it anew, so that it gets another one",
				p, host, f.of(winner), printable.Name(winner.Machine))
		}
	}
	return nil
}

// outranked names who has a part of what this host lives by, by a lease that goes before; it is
// empty if nobody has.
func (t *turn) outranked(s Snapshot) string {
	own, c := t.holding.Own.Subnet, t.holding.Config
	for _, f := range c.families() {
		if winner := t.winner(c, f, s, own); winner != nil {
			return fmt.Sprintf("the Node %s, whose podCIDR %s goes before", printable.Name(winner.Machine), f.of(winner))
		}
	}
	return ""
}

// winner returns the lease that a subnet of this host loses to, as other hosts see it; nil if it is
// in force.
func (t *turn) winner(c *Config, f family, s Snapshot, given ip.Subnet) *Lease {
	own := &Lease{Subnet: given, Created: s.Own.Created}
	own.Machine = s.Own.Host
	if !slices.ContainsFunc(s.Leases, func(l *Lease) bool { return f.of(l).Overlaps(f.of(own)) && l.Machine != own.Machine }) {
		return nil
	}
	other := Vetter{config: c, self: Self{Addr: t.attrs.PublicIP}}
	leases := []*Lease{own}
	for _, l := range s.Leases {
		if unfit, _ := other.unfitIn(f, l); unfit == "" && f.covered(l) && l.Machine != own.Machine {
			leases = append(leases, l)
		}
	}
	return f.losers(leases)[own]
}
