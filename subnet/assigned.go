package subnet

import (
	"errors"
	"fmt"

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

// unassignable returns why the host cannot live by what it is given, if so.
func (t *turn) unassignable(c *Config, s Snapshot) error {
	switch a := s.Own; {
	case !a.Subnet.IsValid():
		return errors.New(a.Missing)
	case !c.Keeps(a.Subnet):
		return &ConfigError{
			Key: "Network", Value: c.Network().String(),
			Reason: fmt.Sprintf("does not hold %s, the podCIDR of this host's Node %s: kube-controller-manager's --cluster-cidr and Network have to be the same", a.Subnet, printable.Name(a.Host)),
		}
	case t.holder(s.Find(a.Subnet)) != "":
		return fmt.Errorf("%s, the podCIDR of this host's Node %s, is also that of %s, which is older and has it: delete the Node %s and have kubelet register it anew, so that it gets another one",
			a.Subnet, printable.Name(a.Host), t.holder(s.Find(a.Subnet)), printable.Name(a.Host))
	}
	if winner := c.winner(s); winner != nil && winner.Machine != s.Own.Host {
		a := s.Own
		return fmt.Errorf("%s, the podCIDR of this host's Node %s, overlaps %s, that of the Node %s, which goes before: delete one of the two and have kubelet register it anew, so that it gets another one",
			a.Subnet, printable.Name(a.Host), winner.Subnet, printable.Name(winner.Machine))
	}
	return nil
}

// winner returns the lease that what the host is given loses to; nil if it is in force.
func (c *Config) winner(s Snapshot) *Lease {
	own := &Lease{Subnet: s.Own.Subnet, Created: s.Own.Created}
	leases := []*Lease{own}
	for _, l := range s.Leases {
		if l.Subnet != own.Subnet {
			leases = append(leases, l)
		}
	}
	return c.losers(leases)[own]
}
