package kube

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"flanneld/pkg/ip"
	"flanneld/pkg/printable"
	"flanneld/subnet"
)

// note is the value of an annotation, if there is one.
type note struct {
	text  string
	there bool
}

type notes [keyCount]note

// node is what matters of a Node.
type node struct {
	name     string
	uid      string
	created  int64 // in seconds since 1970
	revision uint64
	podCIDR  string
	podCIDRs string // joined by commas
	// available: it says that its network works.
	available bool
	notes     notes
}

// same reports whether nothing that matters differs.
func (n node) same(o node) bool {
	n.revision = o.revision
	return n == o
}

// peer reports whether a daemon says that the Node is a host of this network.
func (n *node) peer() bool { return n.notes[managed].text == "true" }

// older reports whether a Node goes before another one where both have one podCIDR.
func (n *node) older(o *node) bool {
	if n.created != o.created {
		return n.created < o.created
	}
	return n.name < o.name
}

// subnet returns the Node's podCIDRs, of either family; not valid if it has none.
func (n *node) subnet() (ip.Subnet, error) {
	text := n.podCIDRs
	if text == "" {
		text = n.podCIDR
	}
	if text == "" {
		return ip.Subnet{}, nil
	}
	var s ip.Subnet
	for _, cidr := range strings.Split(text, ",") {
		p, err := netip.ParsePrefix(cidr)
		switch {
		case err != nil || p.Addr().Is4In6():
			return ip.Subnet{}, fmt.Errorf("its podCIDR %s is not a network in CIDR notation", printable.Quote(cidr))
		case s.Of(ip.FamilyOf(p.Addr())).IsValid():
			return ip.Subnet{}, fmt.Errorf("its podCIDRs %s are more than one of an address family", printable.Quote(text))
		}
		s = s.With(ip.FamilyOf(p.Addr()), p.Masked())
	}
	return s, nil
}

// has reports whether a subnet is the Node's, or a family of what is.
func (n *node) has(s ip.Subnet) bool {
	has, err := n.subnet()
	return err == nil && s.IsValid() && !slices.ContainsFunc(s.Families(), func(f ip.Family) bool { return has.Of(f) != s.Of(f) })
}

// familyKeys are the annotations that there are of each family.
var familyKeys = map[ip.Family]struct{ public, data, overwrite, requested key }{
	ip.V4: {publicIP, backendData, publicIPOverwrite, requestedIP},
	ip.V6: {publicIPv6, backendV6Data, publicIPv6Overwrite, requestedIPv6},
}

// published returns the part of a Node's subnet that its lease is of: the families of which it
// says anything. A daemon writes of those that its configuration has, and in networks of IPv6
// alone some versions of flannel write 0.0.0.0. A Node that says nothing of any says too little.
func (n *node) published(s ip.Subnet) (part ip.Subnet) {
	for _, f := range s.Families() {
		k := familyKeys[f]
		public := n.notes[k.public]
		if public.there && public.text != netip.IPv4Unspecified().String() || !public.there && n.notes[k.data].there {
			part = part.With(f, s.Of(f))
		}
	}
	if !part.IsValid() {
		return s
	}
	return part
}

// attrs reads what a Node's lease of subnet s says. Of a family in which it says what could not be
// acted upon, there is no address; bad is the part of s that is so.
func (n *node) attrs(names *names, s ip.Subnet) (a subnet.Attrs, bad ip.Subnet, err error) {
	a = subnet.Attrs{BackendType: n.notes[backendType].text, Machine: n.name}
	var failed []error
	for _, f := range s.Families() {
		k := familyKeys[f]
		public, why := netip.Addr{}, fmt.Errorf("its annotation %s is missing", names[k.public])
		if n.notes[k.public].there {
			if public, why = parseAddr(n.notes[k.public].text, f); why != nil {
				why = fmt.Errorf("its annotation %s %w", names[k.public], why)
			}
		}
		data, unread := parseData(n.notes[k.data].text)
		if unread != nil {
			why = errors.Join(why, fmt.Errorf("its annotation %s %w", names[k.data], unread))
		}
		if why != nil {
			failed, bad = append(failed, why), bad.With(f, s.Of(f))
			continue
		}
		a = a.With(f, public, data)
	}
	return a, bad, errors.Join(failed...)
}

// asked reads the addresses that people ask for, of both families.
func (n *node) asked(names *names, of func(ip.Family) key) (a ip.Addrs, err error) {
	var failed []error
	for _, f := range ip.Families {
		k := of(f)
		if n.notes[k].text == "" {
			continue
		}
		addr, err := parseAddr(n.notes[k].text, f)
		if err != nil {
			failed = append(failed, fmt.Errorf("the annotation %s %w, and is ignored", names[k], err))
		}
		a = a.With(f, addr)
	}
	return a, errors.Join(failed...)
}

func parseAddr(text string, family ip.Family) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("is %s, and not an address", printable.Quote(text))
	}
	if err := subnet.CheckPublic(a, family); err != nil {
		return netip.Addr{}, fmt.Errorf("is %s, and %w", printable.Quote(text), err)
	}
	return a, nil
}

// parseData returns JSON text in its shortest form, or nothing where there is nothing.
func parseData(text string) (string, error) {
	if text == "" {
		return "", nil
	}
	var b bytes.Buffer
	if err := json.Compact(&b, []byte(text)); err != nil {
		return "", fmt.Errorf("is %s, and not JSON", printable.Quote(text))
	}
	if b.String() == "null" {
		return "", nil
	}
	return b.String(), nil
}

// sameData reports whether two texts are of the same JSON value.
func sameData(a, b string) bool {
	if a == b {
		return true
	}
	var x, y any
	return json.Unmarshal([]byte(a), &x) == nil && json.Unmarshal([]byte(b), &y) == nil && reflect.DeepEqual(x, y)
}
