package kube

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
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
		case p.Addr().Is4() && !s.V4.IsValid():
			s.V4 = p.Masked()
		case p.Addr().Is6() && !s.V6.IsValid():
			s.V6 = p.Masked()
		default:
			return ip.Subnet{}, fmt.Errorf("its podCIDRs %s are more than one of an address family", printable.Quote(text))
		}
	}
	return s, nil
}

// carried is the part of a subnet whose packets this program carries so far. The other part
// is of no consequence, whatever is the matter with it.
func carried(s ip.Subnet) ip.Subnet { return ip.Subnet{V4: s.V4} }

// attrs reads what a Node's lease of subnet s says. It fails on what could not be acted
// upon, and returns the rest all the same.
func (n *node) attrs(names *names, s ip.Subnet) (subnet.Attrs, error) {
	a := subnet.Attrs{BackendType: n.notes[backendType].text, Machine: n.name}
	var failed []error
	address := func(k key, family func(netip.Addr) bool) netip.Addr {
		if !n.notes[k].there {
			failed = append(failed, fmt.Errorf("its annotation %s is missing", names[k]))
			return netip.Addr{}
		}
		addr, err := parseAddr(n.notes[k].text, family)
		if err != nil {
			failed = append(failed, fmt.Errorf("its annotation %s %w", names[k], err))
		}
		return addr
	}
	data := func(k key) string {
		text, err := parseData(n.notes[k].text)
		if err != nil {
			failed = append(failed, fmt.Errorf("its annotation %s %w", names[k], err))
		}
		return text
	}
	if s.V4.IsValid() {
		a.PublicIP.V4 = address(publicIP, netip.Addr.Is4)
		a.BackendData = data(backendData)
	}
	if s.V6.IsValid() {
		a.PublicIP.V6 = address(publicIPv6, netip.Addr.Is6)
		a.BackendV6Data = data(backendV6Data)
	}
	return a, errors.Join(failed...)
}

// asked reads the addresses that people ask for, of both families.
func (n *node) asked(names *names, v4, v6 key) (a ip.Addrs, err error) {
	var failed []error
	read := func(k key, family func(netip.Addr) bool) netip.Addr {
		if n.notes[k].text == "" {
			return netip.Addr{}
		}
		addr, err := parseAddr(n.notes[k].text, family)
		if err != nil {
			failed = append(failed, fmt.Errorf("the annotation %s %w, and is ignored", names[k], err))
		}
		return addr
	}
	a = ip.Addrs{V4: read(v4, netip.Addr.Is4), V6: read(v6, netip.Addr.Is6)}
	return a, errors.Join(failed...)
}

func parseAddr(text string, family func(netip.Addr) bool) (netip.Addr, error) {
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
