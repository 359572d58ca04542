package network

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
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

// String returns the content of the file.
func (e Env) String() string {
	var b strings.Builder
	for _, f := range [...]struct {
		infix           string
		network, subnet netip.Prefix
	}{{"", e.Network.V4, e.Subnet.V4}, {"IPV6_", e.Network.V6, e.Subnet.V6}} {
		if f.network.IsValid() {
			// The first address of the subnet, which is the bridge's.
			gateway := netip.PrefixFrom(f.subnet.Addr().Next(), f.subnet.Bits())
			fmt.Fprintf(&b, "FLANNEL_%sNETWORK=%s\nFLANNEL_%sSUBNET=%s\n", f.infix, f.network, f.infix, gateway)
		}
	}
	fmt.Fprintf(&b, "FLANNEL_MTU=%d\nFLANNEL_IPMASQ=%t\n", e.MTU, e.IPMasq)
	return b.String()
}

// Write puts the file in place, as file.Write does.
func (e Env) Write(path string) error { return file.Write(path, []byte(e.String())) }

// ReadEnv returns the network and the subnet that the file at path names; none if there is
// no such file.
func ReadEnv(path string) (Env, error) {
	var e Env
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return e, nil
	}
	if err != nil {
		return e, fmt.Errorf("reading the subnet that this host had before: %w", err)
	}
	for line := range strings.SplitSeq(string(content), "\n") {
		key, value, _ := strings.Cut(line, "=")
		var to *netip.Prefix
		var family func(netip.Addr) bool
		switch key {
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
		p, err := netip.ParsePrefix(value)
		if err != nil || !family(p.Addr()) {
			return Env{}, fmt.Errorf("reading the subnet that this host had before: %s: bad line %q", path, line)
		}
		*to = p.Masked()
	}
	return e, nil
}
