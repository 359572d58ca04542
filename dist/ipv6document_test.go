package dist_test

import (
	"net/netip"
	"strings"
)

// followIPv6 has a network of both families from its start, and then one that gets IPv6 while
// it runs.
func followIPv6(g *guide) {
	g.lay("192.168.0.2", 2, nil, netip.MustParsePrefix("fd00::/64"))
	g.startEtcd()
	g.run("etcdctl put")
	for _, h := range g.nodes {
		g.installOn(h)
	}
	h := g.nodes[0]
	g.run("$ cat /run/flannel/subnet.env", h)
	g.run("$ etcdctl get --prefix", g.etcdHost())

	hasIPv6 := func(want bool) {
		g.t.Helper()
		for _, h := range g.nodes {
			g.wait(soon, "the subnets to follow", func() string {
				if env := h.run("cat", "/run/flannel/subnet.env"); strings.Contains(env, "FLANNEL_IPV6_SUBNET=") != want {
					return env
				}
				return ""
			})
		}
	}
	g.put("config", `{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}`)
	hasIPv6(false)
	before := h.env()["FLANNEL_SUBNET"]
	g.run("etcdctl put")
	hasIPv6(true)
	if now := h.env()["FLANNEL_SUBNET"]; now != before {
		g.t.Errorf("the host had %s and has %s", before, now)
	}
	g.run("ip -6 addr show")
	g.run("$ ip -6 -o addr show", h)
}
