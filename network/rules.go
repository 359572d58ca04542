package network

import (
	"net/netip"
	"slices"
	"strings"

	"flanneld/pkg/state"
	"flanneld/subnet"
)

// Rules says which rules about packets this host is to have, and in which way
// they are written.
type Rules struct {
	Backend state.RuleBackend
	// Masquerade has pods' packets to the outside get an address of this host,
	// and with RandomFully a port chosen at random.
	Masquerade, RandomFully bool
	// Forward lets pods' packets through; also in these ways, for what one way lets through
	// another may refuse.
	Forward     bool
	ForwardAlso []state.RuleBackend
}

// Equal compares.
func (r Rules) Equal(o Rules) bool {
	return r.Backend == o.Backend && r.Masquerade == o.Masquerade && r.RandomFully == o.RandomFully &&
		r.Forward == o.Forward && slices.Equal(r.ForwardAlso, o.ForwardAlso)
}

func (r Rules) objects(c *subnet.Config, own *subnet.Lease) []state.Object {
	var objects []state.Object
	subnets := own.Subnet.Prefixes()
	for i, network := range c.Network().Prefixes() {
		if r.Masquerade {
			objects = append(objects, state.Masquerade{
				Backend: r.Backend, Network: network, Own: subnets[i],
				Exclude: excluded(c, network), RandomFully: r.RandomFully,
			})
		}
		if r.Forward {
			for _, way := range append([]state.RuleBackend{r.Backend}, r.ForwardAlso...) {
				objects = append(objects, state.Forward{Backend: way, Network: network})
			}
		}
	}
	return objects
}

// excluded are the destinations of a network's own family.
func excluded(c *subnet.Config, network netip.Prefix) string {
	var texts []string
	for _, p := range c.MasqExclude {
		if p.Addr().Is4() == network.Addr().Is4() {
			texts = append(texts, p.String())
		}
	}
	return strings.Join(texts, " ")
}
