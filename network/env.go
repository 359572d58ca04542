package network

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"flanneld/pkg/file"
	"flanneld/pkg/ip"
)

// Env is what subnet.env tells whoever sets up the containers of this host.
type Env struct {
	Network ip.Subnet // of the whole cluster
	Subnet  ip.Subnet // of this host
	MTU     int       // of the containers' interfaces, in bytes
	// IPMasq says that masquerading is done here and need not be done by
	// others.
	IPMasq bool
}

// variables are those of the file, in its order. They alone are ours in it.
var variables = []string{"FLANNEL_NETWORK", "FLANNEL_SUBNET", "FLANNEL_IPV6_NETWORK", "FLANNEL_IPV6_SUBNET", "FLANNEL_MTU", "FLANNEL_IPMASQ"}

// values returns the variables that are to be there.
func (e Env) values() map[string]string {
	all := map[string]string{"FLANNEL_MTU": strconv.Itoa(e.MTU), "FLANNEL_IPMASQ": strconv.FormatBool(e.IPMasq)}
	for _, f := range [...]struct {
		infix           string
		network, subnet netip.Prefix
	}{{"", e.Network.V4, e.Subnet.V4}, {"IPV6_", e.Network.V6, e.Subnet.V6}} {
		if f.network.IsValid() && f.subnet.IsValid() { // a host may have none yet in a family that is new
			all["FLANNEL_"+f.infix+"NETWORK"] = f.network.String()
			// The first address of the subnet, which is the bridge's.
			all["FLANNEL_"+f.infix+"SUBNET"] = netip.PrefixFrom(f.subnet.Addr().Next(), f.subnet.Bits()).String()
		}
	}
	return all
}

// String returns the content of a file that is ours alone.
func (e Env) String() string {
	content, _ := e.edit(nil)
	return string(content)
}

// Write puts the variables into the file at path, as file.Update does, and leaves all
// else in it as it is. It reports whether anything had to be written.
func (e Env) Write(path string) (changed bool, err error) { return file.Update(path, e.edit) }

// edit returns the content of a file with our variables put right, and the same content
// if whoever reads it learns the right values from it; and whether it has lines of others.
func (e Env) edit(before []byte) (now []byte, kept bool) {
	want := e.values()
	right := len(before) > 0
	last := make(map[string]string)
	for a := range assignments(string(before)) {
		if a.name == "" {
			kept = true
			continue
		}
		last[a.name] = a.value
		right = right && !a.exported
	}
	right = right && maps.Equal(last, want)
	if right {
		return before, kept
	}
	if !kept {
		before = nil // all of it is ours, and is in our order
	}
	var b strings.Builder
	done := make(map[string]bool)
	add := func(names []string) {
		for _, name := range names {
			if value, wanted := want[name]; wanted && !done[name] {
				if text := b.String(); text != "" && (!strings.HasSuffix(text, "\n") || strings.HasSuffix(text, "\\\n")) {
					b.WriteString("\n") // nothing of ours continues a line of others
				}
				b.WriteString(name + "=" + value + "\n")
				done[name] = true
			}
		}
	}
	for a := range assignments(string(before)) {
		value, wanted := want[a.name]
		switch {
		case a.name == "":
			b.WriteString(a.line)
			continue
		case !wanted || done[a.name]:
			continue
		case a.value == value && !a.exported:
			b.WriteString(a.line)
		default:
			b.WriteString(a.name + "=" + value + "\n")
		}
		done[a.name] = true
		// What has no line yet gets one before that of the next one in our order.
		later := variables[slices.Index(variables, a.name)+1:]
		if next := slices.IndexFunc(later, func(name string) bool { _, there := last[name]; return there && !done[name] }); next > 0 {
			add(later[:next])
		}
	}
	add(variables)
	return []byte(b.String()), kept
}

// RemoveEnv takes our variables out of the file at path, and the file away if it has
// nothing else. It reports whether it is gone; if there was none, that is an error.
func RemoveEnv(path string) (gone bool, err error) {
	var left string
	_, err = file.Update(path, func(before []byte) (now []byte, kept bool) {
		var b strings.Builder
		for a := range assignments(string(before)) {
			if a.name == "" {
				b.WriteString(a.line)
			}
		}
		if left = b.String(); strings.TrimSpace(left) == "" {
			return before, true // to be removed as it is
		}
		return []byte(left), true
	})
	if err != nil || strings.TrimSpace(left) != "" {
		return false, err
	}
	err = os.Remove(path)
	return err == nil, err
}

// ReadEnv returns the network and the subnet that the file at path names; none if there is
// no such file.
func ReadEnv(path string) (Env, error) {
	var e Env
	content, err := file.ReadOwn(path, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return e, nil
	}
	if err != nil {
		return e, fmt.Errorf("reading the subnet that this host had before: %w", err)
	}
	for a := range assignments(string(content)) {
		var to *netip.Prefix
		var family func(netip.Addr) bool
		switch a.name {
		case "FLANNEL_SUBNET":
			to, family = &e.Subnet.V4, netip.Addr.Is4
		case "FLANNEL_IPV6_SUBNET":
			to, family = &e.Subnet.V6, netip.Addr.Is6
		case "FLANNEL_NETWORK":
			to, family = &e.Network.V4, netip.Addr.Is4
		case "FLANNEL_IPV6_NETWORK":
			to, family = &e.Network.V6, netip.Addr.Is6
		default:
			continue
		}
		p, err := netip.ParsePrefix(strings.TrimSuffix(a.value, "\r"))
		if err != nil || !family(p.Addr()) {
			return Env{}, fmt.Errorf("reading the subnet that this host had before: %s: bad line %q", path, strings.TrimSuffix(a.line, "\n"))
		}
		*to = p.Masked()
	}
	return e, nil
}
