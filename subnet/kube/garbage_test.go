package kube

import (
	"net/netip"
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
		"IPv6 alone":               {peerNode("bad", "fd00::/64", "192.0.2.9", vxlan), "has no IPv4 podCIDR"},
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
	n.notes[publicIPv6], n.notes[backendV6Data] = note{"garbage", true}, note{"{", true}
	n.revision++
	v.put(n)
	if now := v.snapshot(); now.Find(sub("10.244.9.0/24")) != l || len(now.Problems) != 0 {
		t.Errorf("the lease is %+v, the problems are %v", now.Find(sub("10.244.9.0/24")), now.Problems)
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
	f.Add("10.244.9.0/24", "", "true", "vxlan", `{"VNI":1,"VtepMAC":"02:00:00:00:00:09"}`, "192.0.2.9", "", "")
	f.Add("10.244.1.0/24", "10.244.1.0/24,fd00::/64", "true", "", "null", "192.0.2.2", "203.0.113.1", "x")
	f.Add("0.0.0.0/0", "", "true", "host-gw", "", "2001:db8::1", "::", "0.0.0.0")
	f.Add("10.244.9.0/24", "", "true", "vxlan", "{", "x", "y", "z")
	f.Add("", "", "false", "udp", "{", "\x1b[2J", "1.2.3.4%eth0", "\n")
	f.Fuzz(func(t *testing.T, cidr, cidrs, is, kind, data, public, asked, over string) {
		n := node{name: "fuzzed", uid: "u", created: 200, revision: 50, podCIDR: cidr, podCIDRs: cidrs}
		for k, text := range map[key]string{managed: is, backendType: kind, backendData: data, publicIP: public, requestedIP: asked, publicIPOverwrite: over} {
			n.notes[k] = note{text, true}
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
			if l.Machine != "fuzzed" {
				continue
			}
			back := node{name: "fuzzed"}
			for k, text := range annotations(l.Subnet, l.Attrs) {
				back.notes[k] = note{text, true}
			}
			if a, err := back.attrs(&theNames, l.Subnet); err != nil || a != l.Attrs {
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
