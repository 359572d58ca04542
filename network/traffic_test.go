package network

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"flanneld/backend"
	"flanneld/backend/vxlan"
	"flanneld/pkg/dataplane/kernel"
	"flanneld/pkg/firewall"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

// dualDesired is for a host of both families, whose external interfaces are different, and
// peers: one of both, and one of IPv4 alone.
func dualDesired(t *testing.T, config string) Desired {
	t.Helper()
	c, err := subnet.ParseConfig([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	b, err := vxlan.Type.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	w := desire()
	w.Config, w.Backend = c, b
	w.Host.V6 = backend.Underlay{Iface: "eth1", MTU: 1500, Up: true, Addr: netip.MustParseAddr("2001:db8::1:2:3"), Net: netip.MustParsePrefix("2001:db8::/64")}
	both := func(v4, v6 string) ip.Subnet {
		return ip.Subnet{V4: netip.MustParsePrefix(v4), V6: netip.MustParsePrefix(v6)}
	}
	w.Own = &subnet.Lease{Subnet: both("10.5.1.0/24", "fc00:0:0:1::/64")}
	w.Peers = []*subnet.Lease{
		{Subnet: both("10.5.2.0/24", "fc00:0:0:2::/64"), Attrs: subnet.Attrs{PublicIP: ip.Addrs{V4: peerAddr(2), V6: netip.MustParseAddr("2001:db8::2")}}},
		{Subnet: ip.SubnetOf(netip.MustParsePrefix("10.5.3.0/24")), Attrs: subnet.Attrs{PublicIP: ip.Addrs{V4: peerAddr(3)}}},
	}
	for i, l := range w.Peers {
		l.BackendType, l.BackendData, l.BackendV6Data = "vxlan", vtepData(hostMAC(2+i)), vtepData(hostMAC(12+i))
	}
	return w
}

const dualConfig = `{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/48"}`

// Of each family that passes filters which is sent by the interfaces of the family; in IPv6
// that is also what neighbours find each other by.
func TestTrafficOfFamilies(t *testing.T) {
	pods := kernel.Interface{Name: "cni0", Index: 7, Bridge: true}
	for _, a := range []string{"10.5.1.1/24", "fc00:0:0:1::1/64"} {
		pods.Addrs = append(pods.Addrs, kernel.Address{Prefix: netip.MustParsePrefix(a)})
	}
	texts := func(w Desired) (all []string) {
		for _, t := range trafficOf(&w, []kernel.Interface{{Name: "eth0"}, {Name: "eth1"}, pods}) {
			for _, r := range t.peers {
				for _, s := range t.samples(r.way) {
					p := s.packet(r)
					kind := map[byte]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp", unix.IPPROTO_ICMPV6: fmt.Sprint("icmp", p.ICMPType)}[p.Proto]
					if p.DstPort != 0 {
						kind += fmt.Sprint(p.DstPort)
					}
					text := fmt.Sprintf("%s %s>%s %s %s", kind, p.In.Name, p.Out.Name, p.Src, p.Dst)
					if !slices.Contains(all, text) {
						all = append(all, text)
					}
				}
			}
		}
		return all
	}
	const v4 = `udp8472 eth0> 192.168.1.2/32 192.168.0.1/32
udp8472 >eth0 192.168.0.1/32 192.168.1.2/32
tcp flannel.1>cni0 10.5.2.0/24 10.5.1.0/24
tcp cni0>flannel.1 10.5.1.0/24 10.5.2.0/24
udp flannel.1>cni0 10.5.2.0/24 10.5.1.0/24
udp cni0>flannel.1 10.5.1.0/24 10.5.2.0/24
udp8472 eth0> 192.168.1.3/32 192.168.0.1/32
udp8472 >eth0 192.168.0.1/32 192.168.1.3/32
tcp flannel.1>cni0 10.5.3.0/24 10.5.1.0/24
tcp cni0>flannel.1 10.5.1.0/24 10.5.3.0/24
udp flannel.1>cni0 10.5.3.0/24 10.5.1.0/24
udp cni0>flannel.1 10.5.1.0/24 10.5.3.0/24
`
	const found = `icmp135 eth1> ::/0 ff02::1:ff02:3/128
icmp136 eth1> ::/0 2001:db8::1:2:3/128
icmp135 >eth1 2001:db8::1:2:3/128 ff02::1:ff00:0/104
icmp136 >eth1 2001:db8::1:2:3/128 ::/0
icmp135 cni0> ::/0 ff02::1:ff00:1/128
icmp136 cni0> ::/0 fc00:0:0:1::1/128
icmp135 >cni0 fc00:0:0:1::1/128 ff02::1:ff00:0/104
icmp136 >cni0 fc00:0:0:1::1/128 ::/0
`
	const within = `tcp flannel-v6.1>cni0 fc00:0:0:2::/64 fc00:0:0:1::/64
tcp cni0>flannel-v6.1 fc00:0:0:1::/64 fc00:0:0:2::/64
udp flannel-v6.1>cni0 fc00:0:0:2::/64 fc00:0:0:1::/64
udp cni0>flannel-v6.1 fc00:0:0:1::/64 fc00:0:0:2::/64
`
	const v6 = `udp8472 eth1> 2001:db8::2/128 2001:db8::1:2:3/128
udp8472 >eth1 2001:db8::1:2:3/128 2001:db8::2/128
` + found + within
	check := func(what, want string, w Desired) {
		t.Helper()
		if got := strings.Join(texts(w), "\n") + "\n"; got != want {
			t.Errorf("%s: there passes\n%swant\n%s", what, got, want)
		}
	}
	w := dualDesired(t, dualConfig)
	check("both", v4+v6, w)
	only := w
	only.Own = &subnet.Lease{Subnet: ip.SubnetOf(w.Own.Subnet.V4)}
	check("IPv4 alone", v4, only)
	only.Own = &subnet.Lease{Subnet: ip.SubnetOf(w.Own.Subnet.V6)}
	check("IPv6 alone", v6, only)

	direct := dualDesired(t, dualConfig)
	direct.Own, direct.Backend = only.Own, desire().Backend
	for _, l := range direct.Peers {
		l.BackendType = "host-gw"
	}
	check("without a tunnel", found+strings.ReplaceAll(within, "flannel-v6.1", "eth1"), direct)
}

// What keeps neighbours from each other is told, with what mends it by the program that wrote
// it.
func TestDiscoveryIsNamed(t *testing.T) {
	c := &closed{drop: firewall.Drop{Variant: state.IPTablesNFT, Family: "ip6", Table: "filter", Base: "INPUT", Chain: "INPUT"}, subject: discovery, iface: "eth1"}
	o := traffic{}.obstacle(c)
	want := Obstacle{
		Subject: "IPv6 on eth1",
		Problem: "table filter of ip6tables-nft drops the packets by which neighbours there find each other (policy drop of chain INPUT)",
	}
	remedy := o.Remedy
	o.Remedy = ""
	if o != want || !strings.HasPrefix(remedy, "ip6tables") || !strings.HasSuffix(remedy, " -I INPUT -p ipv6-icmp -j ACCEPT") {
		t.Errorf("it is %+v, mended by %s", o, remedy)
	}
}
