package kube

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"flanneld/pkg/ip"
	"flanneld/subnet"
)

// showing is a view of a Node of ours, of a good one, and of others.
func showing(nodes ...node) *view {
	v := newView(&theNames, "own")
	own := node{name: "own", uid: "u0", created: 1, revision: 1, podCIDR: "10.244.0.0/24"}
	v.reset(append([]node{own, goodNode()}, nodes...))
	v.listed = true
	return v
}

func goodNode() node {
	return peerNode("good", "10.244.1.0/24", "192.0.2.2", `{"VNI":1,"VtepMAC":"02:00:00:00:00:02"}`)
}

var self = subnet.Self{
	Addr: ip.Addrs{V4: netip.MustParseAddr("192.0.2.1")},
	Link: ip.SubnetOf(netip.MustParsePrefix("192.0.2.0/24")),
	All:  []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")},
}

// peers are those that a host goes by.
func peers(t testing.TB, p *subnet.Peers, v *view) subnet.PeersView {
	t.Helper()
	config := must(subnet.ParseConfig([]byte(`{"Network":"10.244.0.0/16"}`)))(t)
	config.Assigned = true
	own := &subnet.Lease{Subnet: sub("10.244.0.0/24"), Attrs: subnet.Attrs{PublicIP: self.Addr, Machine: "own"}}
	return p.Update(subnet.Holding{Config: config, Own: own, Snapshot: v.snapshot()}, self, time.Now())
}

// Whatever one Node says, the others are used, and it is named.
func TestGarbageHarmsNoOther(t *testing.T) {
	vxlan := `{"VNI":1,"VtepMAC":"02:00:00:00:00:09"}`
	for name, c := range map[string]struct {
		bad  node
		says string
	}{
		"all addresses":            {peerNode("bad", "0.0.0.0/0", "192.0.2.9", vxlan), "lies outside Network"},
		"Network itself":           {peerNode("bad", "10.244.0.0/16", "192.0.2.9", vxlan), "or is all of it"},
		"the hosts' own network":   {peerNode("bad", "192.0.2.0/24", "192.0.2.9", vxlan), "lies outside Network"},
		"outside of Network":       {peerNode("bad", "10.9.0.0/24", "192.0.2.9", vxlan), "lies outside Network"},
		"our own":                  {peerNode("bad", "10.244.0.0/25", "192.0.2.9", vxlan), "overlaps this host's own subnet"},
		"a part of another's":      {peerNode("bad", "10.244.0.0/15", "192.0.2.9", vxlan), "lies outside Network"},
		"that of another":          {peerNode("zbad", "10.244.1.0/24", "192.0.2.9", vxlan), "also that of the Node good"},
		"our address":              {peerNode("bad", "10.244.9.0/24", "192.0.2.1", vxlan), "its public address 192.0.2.1 is this host's own"},
		"an address of IPv6":       {peerNode("bad", "10.244.9.0/24", "2001:db8::1", vxlan), "not an address of the right family"},
		"IPv6 alone":               {peerNode("bad", "fd00::/64", "192.0.2.9", vxlan), "public-ipv6 is missing"},
		"no JSON":                  {peerNode("bad", "10.244.9.0/24", "192.0.2.9", `{"VNI":`), "and not JSON"},
		"escape sequences":         {peerNode("bad", "10.244.9.0/24", "\x1b[2J\n", vxlan), `\x1b[2J\n`},
		"what is no CIDR":          {peerNode("bad", "10.244.9.0/33", "192.0.2.9", vxlan), "not a network in CIDR notation"},
		"its own address in there": {peerNode("bad", "10.244.9.0/24", "10.244.9.1", vxlan), "lies inside the subnet itself"},
	} {
		t.Run(name, func(t *testing.T) {
			var p subnet.Peers
			v := showing()
			before := peers(t, &p, v)
			v.put(c.bad)
			after := peers(t, &p, v)
			if len(after.Peers) != 1 || after.Peers[0] != before.Peers[0] || after.Peers[0].Machine != "good" {
				t.Errorf("the peers are %v", after.Peers)
			}
			news := strings.Join(after.News, "; ")
			if !strings.Contains(news, c.says) || !strings.Contains(news, "Node "+c.bad.name) {
				t.Errorf("%q does not say %q of the Node", news, c.says)
			}
		})
	}
}

// A peer whose annotations are half there, or garbage, keeps what it had. One that is none any
// more goes.
func TestHalfAnnotations(t *testing.T) {
	for name, change := range map[string]func(*node){
		"no address":  func(n *node) { n.notes[publicIP] = note{} },
		"no JSON":     func(n *node) { n.notes[backendData].text = "{" },
		"IPv6":        func(n *node) { n.notes[publicIP].text = "fe80::1" },
		"no host's":   func(n *node) { n.notes[publicIP].text = "255.255.255.255" },
		"empty texts": func(n *node) { n.notes[publicIP].text = "" },
	} {
		v := showing()
		before := v.snapshot().Find(sub("10.244.1.0/24"))
		half := goodNode()
		half.revision++
		change(&half)
		v.put(half)
		now := v.snapshot()
		if now.Find(sub("10.244.1.0/24")) != before || len(now.Problems) != 1 {
			t.Errorf("%s: %v, %v", name, now.Leases, now.Problems)
		}
		var p subnet.Peers
		if is := peers(t, &p, v); len(is.Unreadable) != 1 || len(is.Peers) != 1 {
			t.Errorf("%s: the host goes by %+v", name, is)
		}
		half = goodNode()
		half.revision += 2
		half.notes[managed].text = "false"
		v.put(half)
		if now := v.snapshot(); len(now.Leases) != 0 || len(now.Problems) != 0 {
			t.Errorf("%s: no peer any more: %v, %v", name, now.Leases, now.Problems)
		}
	}
}

// A Node of both families is used for IPv4, whatever is the matter with the rest of it.
func TestDualStackPeer(t *testing.T) {
	n := peerNode("dual", "10.244.9.0/24", "192.0.2.9", "null")
	n.podCIDRs = "fd00:9::/64,10.244.9.0/24"
	v := showing(n)
	l := v.snapshot().Find(sub("10.244.9.0/24"))
	if l == nil || l.PublicIP != addrs("192.0.2.9") {
		t.Fatalf("the lease is %+v", l)
	}
	for _, public := range []string{"garbage", "2001:db8::9"} {
		n.notes[publicIPv6], n.notes[backendV6Data] = note{public, true}, note{"{", true}
		n.revision++
		v.put(n)
		var p subnet.Peers
		now := peers(t, &p, v)
		if len(now.Peers) != 2 || now.Peers[1].Subnet != l.Subnet || now.Peers[1].Attrs != l.Attrs || now.Problems != 0 {
			t.Errorf("with %s: the peers are %v, with %d problems: %v", public, now.Peers, now.Problems, now.News)
		}
	}
}

// In a network of both families a Node is used in those of which it says anything; where one
// can't be read, that stays as it was, and the other is followed.
func TestDualStack(t *testing.T) {
	const v4, v6 = "10.244.9.0/24", "fd00:9::/64"
	config := must(subnet.ParseConfig([]byte(`{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd00::/16"}`)))(t)
	config.Assigned = true
	self := self
	self.Addr.V6, self.Link.V6 = netip.MustParseAddr("2001:db8::1"), netip.MustParsePrefix("2001:db8::/64")
	own := &subnet.Lease{Subnet: ip.Subnet{V4: netip.MustParsePrefix("10.244.0.0/24"), V6: netip.MustParsePrefix("fd00:0:0:1::/64")}, Attrs: subnet.Attrs{PublicIP: self.Addr, Machine: "own"}}
	v := showing()
	var p subnet.Peers
	n := peerNode("dual", v4, "192.0.2.9", "null")
	n.podCIDRs = v6 + "," + v4
	for i, step := range []struct {
		what     string
		notes    map[key]string // "" takes one away
		want     string
		public   string
		problems int
	}{
		{"IPv4 alone", nil, v4, "192.0.2.9", 0},
		{"both", map[key]string{publicIPv6: "2001:db8::9", backendV6Data: `{"VNI":1}`}, v4 + "," + v6, "192.0.2.9,2001:db8::9", 0},
		{"IPv6 cannot be read, and IPv4 is another one", map[key]string{publicIPv6: "nonsense", publicIP: "192.0.2.8"}, v4 + "," + v6, "192.0.2.8,2001:db8::9", 1},
		{"IPv6 has no address", map[key]string{publicIPv6: "", publicIP: "192.0.2.9"}, v4 + "," + v6, "192.0.2.9,2001:db8::9", 1},
		{"both again", map[key]string{publicIPv6: "2001:db8::8"}, v4 + "," + v6, "192.0.2.9,2001:db8::8", 0},
		{"neither can be read", map[key]string{publicIPv6: "x", publicIP: "y"}, v4 + "," + v6, "192.0.2.9,2001:db8::8", 1},
		{"IPv4 alone again", map[key]string{publicIPv6: "", backendV6Data: "", publicIP: "192.0.2.9"}, v4, "192.0.2.9", 0},
		{"IPv6 alone, as flannel's vxlan says it", map[key]string{publicIPv6: "2001:db8::9", backendV6Data: "null", publicIP: "", backendData: ""}, v6, "2001:db8::9", 0},
		{"IPv6 alone, as flannel's host-gw says it", map[key]string{publicIP: "0.0.0.0", backendData: "null"}, v6, "2001:db8::9", 0},
	} {
		for k, text := range step.notes {
			n.notes[k] = note{text, text != ""}
		}
		n.revision++
		v.put(n)
		h := subnet.Holding{Config: config, Own: own, Snapshot: v.snapshot()}
		p.Update(h, self, time.Now().Add(time.Duration(2*i)*time.Minute))
		now := p.Update(h, self, time.Now().Add(time.Duration(2*i+1)*time.Minute)) // nothing lingers any more
		var dual *subnet.Lease
		for _, l := range now.Peers {
			if l.Machine == "dual" {
				dual = l
			}
		}
		if dual == nil || dual.Subnet.String() != step.want || dual.PublicIP.String() != step.public || now.Problems != step.problems || len(now.Peers) != 2 {
			t.Errorf("%s: the peers are %v, with %d problems: %v", step.what, now.Peers, now.Problems, now.News)
		}
	}
}

// What a Node of ours says in other words than we do is no change to be undone.
func TestInOurWords(t *testing.T) {
	v := showing()
	said := subnet.Attrs{PublicIP: addrs("192.0.2.1"), BackendType: "vxlan", BackendData: `{"VtepMAC":"02:00:00:00:00:01","VNI":1}`, Machine: "own"}
	v.say(&said)
	n := peerNode("own", "10.244.0.0/24", "192.0.2.1", `{ "VNI":1, "VtepMAC":"02:00:00:00:00:01" }`)
	n.uid, n.created, n.revision = "u0", 1, 7
	v.put(n)
	if l := v.snapshot().Find(sub("10.244.0.0/24")); l == nil || l.Attrs != said {
		t.Errorf("the lease is %+v, want %+v", l, said)
	}
	n.notes[backendData].text, n.revision = `{"VNI":2,"VtepMAC":"02:00:00:00:00:01"}`, 8
	v.put(n)
	if l := v.snapshot().Find(sub("10.244.0.0/24")); l == nil || l.Attrs == said {
		t.Error("another value is not noticed")
	}
}

// What a Node says can be anything. It never harms another, and what is said about it is one
// line that can be printed.
func FuzzAnnotations(f *testing.F) {
	f.Add("10.244.9.0/24", "", "true", "vxlan", `{"VNI":1,"VtepMAC":"02:00:00:00:00:09"}`, "192.0.2.9", "", "", "", "")
	f.Add("10.244.1.0/24", "10.244.1.0/24,fd00::/64", "true", "", "null", "192.0.2.2", "203.0.113.1", "x", "2001:db8::2", "null")
	f.Add("10.244.9.0/24", "fd00:9::/64,10.244.9.0/24", "true", "vxlan", "null", "0.0.0.0", "", "", "2001:db8::2", `{"VNI":1}`)
	f.Add("10.244.9.0/24", "fd00:9::/64,10.244.9.0/24", "true", "vxlan", "null", "192.0.2.9", "", "", "::ffff:192.0.2.1", "{")
	f.Add("0.0.0.0/0", "", "true", "host-gw", "", "2001:db8::1", "::", "0.0.0.0", "fe80::1%eth0", "")
	f.Add("10.244.9.0/24", "", "true", "vxlan", "{", "x", "y", "z", "", "")
	f.Add("", "", "false", "udp", "{", "\x1b[2J", "1.2.3.4%eth0", "\n", "\x1b[2J", "\n")
	f.Fuzz(func(t *testing.T, cidr, cidrs, is, kind, data, public, asked, over, public6, data6 string) {
		n := node{name: "fuzzed", uid: "u", created: 200, revision: 50, podCIDR: cidr, podCIDRs: cidrs}
		for k, text := range map[key]string{managed: is, backendType: kind, backendData: data, publicIP: public, requestedIP: asked, publicIPOverwrite: over, publicIPv6: public6, backendV6Data: data6} {
			n.notes[k] = note{text, k != publicIPv6 && k != backendV6Data || text != ""}
		}
		v := showing()
		good := v.snapshot().Find(sub("10.244.1.0/24"))
		v.put(n)
		now := v.snapshot()
		if now.Find(sub("10.244.1.0/24")) != good || now.Own.Subnet != sub("10.244.0.0/24") {
			t.Fatalf("another Node is harmed: %v, %+v", now.Leases, now.Own)
		}
		for _, p := range now.Problems {
			for _, r := range p.Reason {
				if r < ' ' || r == 0x7f {
					t.Errorf("the reason cannot be printed: %q", p.Reason)
				}
			}
			if len(p.Reason) > 1000 || !utf8.ValidString(p.Reason) {
				t.Errorf("the reason is %q", p.Reason)
			}
		}
		var p subnet.Peers
		for _, l := range peers(t, &p, v).Peers {
			if l.Machine == "fuzzed" && (l.Subnet.V4.Bits() <= 16 || !l.PublicIP.V4.Is4() || l.Subnet.V6.IsValid()) {
				t.Errorf("the peer is %+v", l)
			}
		}
		for _, l := range now.Leases {
			half := slices.ContainsFunc(l.Subnet.Families(), func(f ip.Family) bool { return !l.PublicIP.Of(f).IsValid() })
			if l.Machine != "fuzzed" || half {
				continue
			}
			back := node{name: "fuzzed"}
			for k, text := range annotations(l.Subnet, l.Attrs) {
				back.notes[k] = note{text, true}
			}
			if a, _, err := back.attrs(&theNames, l.Subnet); err != nil || a != l.Attrs {
				t.Errorf("written and read again, %+v is %+v: %v", l.Attrs, a, err)
			}
		}

		// It may be ours, too.
		n.name, n.revision = "own", 60
		v.put(n)
		if own := v.snapshot().Own; own.Subnet.IsValid() == (own.Missing != "") {
			t.Errorf("the assignment is %+v", own)
		}
		n.name, n.revision = "fuzzed", 70
		v.remove(n)
		if l := v.snapshot().Find(sub("10.244.1.0/24")); l == nil {
			t.Error("the good Node went with it")
		}
	})
}

// What our Node asks for stays asked for while there is no Node: nobody took it back.
func TestWishesOutliveNode(t *testing.T) {
	v := newView(&theNames, "own")
	own := node{name: "own", uid: "u0", created: 1, revision: 1, podCIDR: "10.244.0.0/24"}
	own.notes[publicIPOverwrite] = note{"203.0.113.7", true}
	v.reset([]node{own})
	overwrite := ip.Addrs{V4: netip.MustParseAddr("203.0.113.7")}
	gone := own
	gone.revision = 2
	for what, change := range map[string]func(){
		"it is deleted":    func() { v.remove(gone) },
		"it is not listed": func() { v.reset(nil) },
	} {
		if change(); v.own.Subnet.IsValid() || v.own.Overwrite != overwrite {
			t.Errorf("%s: %+v", what, v.own)
		}
	}
	own.notes[publicIPOverwrite], own.uid, own.revision = note{}, "u1", 3
	if v.put(own); v.own.Overwrite != (ip.Addrs{}) {
		t.Errorf("a Node that asks for nothing: %+v", v.own)
	}
}
