package network

import (
	"slices"
	"strings"

	"flanneld/pkg/ip"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

// Rules says which rules about packets this host is to have, and in which ways
// they are written.
type Rules struct {
	// Masquerade has pods' packets to the outside get an address of this host,
	// and with RandomFully a port chosen at random.
	Masquerade, RandomFully bool
	// Forward lets pods' packets through.
	Forward bool
	V4, V6  Ways
}

// Ways are those in which the rules of a family are written.
type Ways struct {
	Backend state.RuleBackend
	// ForwardAlso are others that let pods' packets through, too, for what one way lets
	// through another may refuse.
	ForwardAlso []state.RuleBackend
}

// Of returns the ways of a family.
func (r *Rules) Of(f ip.Family) *Ways {
	if f == ip.V4 {
		return &r.V4
	}
	return &r.V6
}

// Equal compares.
func (r Rules) Equal(o Rules) bool {
	return r.Masquerade == o.Masquerade && r.RandomFully == o.RandomFully && r.Forward == o.Forward && r.V4.equal(o.V4) && r.V6.equal(o.V6)
}

func (w Ways) equal(o Ways) bool {
	return w.Backend == o.Backend && slices.Equal(w.ForwardAlso, o.ForwardAlso)
}

func (r Rules) objects(c *subnet.Config, own *subnet.Lease) []state.Object {
	var objects []state.Object
	for _, f := range c.Network().Families() {
		network, own := c.Network().Of(f), own.Subnet.Of(f)
		if !own.IsValid() {
			continue // this host has none yet
		}
		ways := r.Of(f)
		if r.Masquerade {
			objects = append(objects, state.Masquerade{
				Backend: ways.Backend, Network: network, Own: own,
				Exclude: excluded(c, f), RandomFully: r.RandomFully,
			})
		}
		if r.Forward {
			for _, way := range append([]state.RuleBackend{ways.Backend}, ways.ForwardAlso...) {
				objects = append(objects, state.Forward{Backend: way, Network: network})
			}
		}
	}
	return objects
}

// excluded are the destinations of a family.
func excluded(c *subnet.Config, f ip.Family) string {
	var texts []string
	for _, p := range c.MasqExclude {
		if ip.FamilyOf(p.Addr()) == f {
			texts = append(texts, p.String())
		}
	}
	return strings.Join(texts, " ")
}
