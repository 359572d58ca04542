package main_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/ip"
	"flanneld/pkg/lab"
	"flanneld/pkg/status"
)

// noticed is how long it may take until a peer is known to be out of reach, or in reach again.
const noticed = 90 * time.Second

// waitReach waits until a host has a peer in a state, and names nothing else that is amiss.
// Where that is status.PeerReachable, all peers must be.
func (h *node) waitReach(p peer, state status.PeerState, says ...string) {
	h.n.t.Helper()
	h.n.wait(noticed, fmt.Sprintf("%s to have %s %s", h.Name, p.subnets(), state), func() string {
		code, s := h.status()
		all := fmt.Sprintf("status %d, peers %+v, problems %+v", code, s.Peers, s.Problems)
		if state == status.PeerReachable {
			if code != 0 || s.Peers.Reachable != s.Peers.Count || !s.Ready {
				return all
			}
			return ""
		}
		if code != 1 || !s.Ready || len(s.Peers.Troubled) != 1 || len(s.Problems) != 1 || s.Peers.Reachable != s.Peers.Count-1 {
			return all
		}
		is, problem := s.Peers.Troubled[0], s.Problems[0]
		if is.Subnet != p.subnets() || is.State != state || is.Since.IsZero() || problem.Component != status.ComponentPeers || !strings.Contains(problem.Text, p.subnets()) {
			return all
		}
		for _, text := range says {
			if !strings.Contains(is.Reason+"; "+is.Remedy, text) {
				return all + " without " + text
			}
		}
		return ""
	})
}

// dialSocket connects to the socket that the daemon answers root at.
func (h *node) dialSocket(ctx context.Context, _, _ string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(h.Dir, "subnet.env.sock"))
}

// metrics are those of the daemon, as root has them from its socket.
func (h *node) metrics() string {
	h.n.t.Helper()
	c := http.Client{Transport: &http.Transport{DialContext: h.dialSocket, DisableKeepAlives: true}, Timeout: soon}
	answer, err := c.Get("http://flanneld/metrics")
	check(h.n.t, err)
	defer answer.Body.Close()
	return string(must(io.ReadAll(answer.Body))(h.n.t))
}

// waitTold waits for a line about a peer, of which there are few.
func (h *node) waitTold(text string) {
	h.n.t.Helper()
	h.n.wait(noticed, fmt.Sprintf("a line %q", text), func() string {
		if log := h.daemon.Log(); !strings.Contains(log, text) {
			return log
		}
		return ""
	})
}

// Whether packets get to each peer is measured, and what keeps them from one is told apart.
func TestReach(t *testing.T) {
	t.Parallel()
	drop := func(h *node, what string) {
		h.nft("table inet theirs {\n chain c {\n type filter hook prerouting priority -500;\n " + what + " drop\n }\n}\n")
	}
	allow := func(h *node) { h.nft("delete table inet theirs") }
	for _, test := range []struct {
		name       string
		v          variant
		hurt, mend func(near, far *node)
		// What near has far for, and what it says of that.
		state status.PeerState
		says  []string
		// Another host, which is as far from the trouble as can be, may see it, too.
		everywhere bool
	}{
		{
			name: "port dropped one way", v: vxlan, state: status.PeerUnreachable,
			hurt: func(near, far *node) { drop(far, "udp dport 8472 ip saddr "+near.Addr.String()) },
			mend: func(_, far *node) { allow(far) },
			says: []string{"UDP port 8472", "flannel.1", "tcpdump -ni any udp port 8472 and host 192.168.0."},
		},
		{
			name: "port dropped both ways in one family", v: vxlan.in(dualStack), state: status.PeerUnreachable,
			hurt: func(near, far *node) {
				six := near.Of(ip.V6).String()
				far.nft("table inet theirs {\n chain in {\n type filter hook prerouting priority -500;\n udp dport 8472 ip6 saddr " + six + " drop\n }\n" +
					" chain out {\n type filter hook postrouting priority 500;\n udp dport 8472 ip6 daddr " + six + " drop\n }\n}\n")
			},
			mend: func(_, far *node) { allow(far) },
			says: []string{"UDP port 8472", "flannel-v6.1", "tcpdump -ni any udp port 8472 and host fd"},
		},
		{
			name: "port dropped", v: udp, state: status.PeerUnreachable,
			hurt: func(near, far *node) { drop(far, "udp dport 8285 ip saddr "+near.Addr.String()) },
			mend: func(_, far *node) { allow(far) },
			says: []string{"UDP port 8285", "flannel0"},
		},
		{
			name: "frozen daemon", v: udp, state: status.PeerUnreachable, everywhere: true,
			hurt: func(_, far *node) { check(far.n.t, far.daemon.Freeze()) },
			mend: func(_, far *node) { check(far.n.t, far.daemon.Thaw()) },
			says: []string{"UDP port 8285", "flanneld does not run there"},
		},
		{
			name: "no pings between hosts", v: vxlan.in(dualStack), state: status.PeerReachable,
			hurt: func(_, far *node) {
				drop(far, "iifname eth0 icmpv6 type echo-request drop\n iifname eth0 icmp type echo-request")
			},
			mend: func(_, far *node) { allow(far) },
		},
		{
			name: "no pings between hosts", v: hostGW, state: status.PeerGone, everywhere: true,
			hurt: func(_, far *node) { drop(far, "iifname eth0 icmp type echo-request") },
			mend: func(_, far *node) { allow(far) },
			says: []string{"or lets nobody ping it now"},
		},
		{
			name: "narrow path", v: vxlan.in(ipv6Only), state: status.PeerSmallOnly, everywhere: true,
			hurt: func(_, far *node) { check(far.n.t, far.NarrowPath("eth0", 1400)) },
			mend: func(_, far *node) { check(far.n.t, far.NarrowPath("eth0", 1500)) },
			says: []string{"packets of 1430 bytes do not come back, those of 13", "MTU on the way is probably about 1", "ping -M do -s 1382 fd"},
		},
		{
			name: "narrow path", v: vxlan, state: status.PeerSmallOnly, everywhere: true,
			hurt: func(_, far *node) { check(far.n.t, far.NarrowPath("eth0", 1400)) },
			mend: func(_, far *node) { check(far.n.t, far.NarrowPath("eth0", 1500)) },
			says: []string{"packets of 1450 bytes do not come back, those of 13", "MTU on the way is probably about 1", "ping -M do -s 1422 10.5."},
		},
		{
			name: "narrow path", v: hostGW, state: status.PeerSmallOnly, everywhere: true,
			hurt: func(_, far *node) { check(far.n.t, far.NarrowPath("eth0", 1400)) },
			mend: func(_, far *node) { check(far.n.t, far.NarrowPath("eth0", 1500)) },
			says: []string{"packets of 1500 bytes do not come back", "ping -M do -s 1472 192.168.0."},
		},
		{
			name: "dead", v: vxlan, state: status.PeerGone, everywhere: true,
			hurt: func(_, far *node) { check(far.n.t, far.CutOff("eth0")) },
			mend: func(_, far *node) { check(far.n.t, far.Restore("eth0")) },
			says: []string{"neither at 10.5.", "nor at 192.168.0.", "ping 192.168.0."},
		},
		{
			name: "dead", v: hostGW.in(dualStack), state: status.PeerGone, everywhere: true,
			hurt: func(_, far *node) { check(far.n.t, far.CutOff("eth0")) },
			mend: func(_, far *node) { check(far.n.t, far.Restore("eth0")) },
			says: []string{"does not answer at 192.168.0.", "ping 192.168.0."},
		},
	} {
		t.Run(test.name+","+test.v.name(), func(t *testing.T) {
			t.Parallel()
			n := newNetwork(t, 3, test.v, nil)
			near, far, third := n.nodes[0], n.nodes[1], n.nodes[2]
			for _, h := range n.nodes {
				h.waitReach(near.peer(), status.PeerReachable)
			}
			test.hurt(near, far)
			if test.state == status.PeerReachable {
				must(near.daemon.Stop(soon))(t)
				near.start()
				near.waitReady()
				near.waitReach(far.peer(), test.state)
				if log := near.daemon.Log(); strings.Contains(log, "peer 10.5.") {
					t.Error(log)
				}
				return
			}
			near.waitReach(far.peer(), test.state, test.says...)
			if test.everywhere {
				third.waitReach(far.peer(), test.state, test.says...)
			} else {
				third.waitReach(far.peer(), status.PeerReachable)
			}
			near.waitTold(fmt.Sprintf(" is %s: ", test.state))
			by := "reachability"
			if test.state == status.PeerSmallOnly {
				by = "path MTU"
			}
			near.names(test.name, by, far.peer().subnets())
			near.tells(test.name, status.ComponentPeers, far.peer().subnets())
			for _, state := range status.TroubledStates {
				count := 0
				if state == test.state {
					count = 1
				}
				if want, all := fmt.Sprintf("flanneld_peers_troubled{state=%q} %d\n", state, count), near.metrics(); !strings.Contains(all, want) {
					t.Errorf("the metrics lack %q: %s", want, all)
				}
			}
			test.mend(near, far)
			for _, h := range n.nodes {
				h.waitReach(near.peer(), status.PeerReachable)
			}
			near.waitTold(" is reachable again")
		})
	}
}

// BenchmarkProbe starts a daemon in a network of so many peers, which one host answers for,
// with probes and without. It reports
//
//	idle-cpu-%  processor time during a minute without changes
//	rss-MB      resident memory afterwards
//	answered    the peers that were known to be reachable then
func BenchmarkProbe(b *testing.B) {
	for _, peers := range []int{1000, 10000} {
		for _, budget := range []int{0, 20} {
			b.Run(fmt.Sprintf("peers=%d/probe=%d", peers, budget), func(b *testing.B) {
				for range b.N {
					idleWithProbes(b, peers, budget)
				}
			})
		}
	}
}

func idleWithProbes(b *testing.B, peers, budget int) {
	n := newConfigured(b, vxlan, settings{"Network": "10.0.0.0/8", "SubnetLen": 24, "SubnetMin": "10.200.0.0"})
	far, near := n.addNode(lab.HostOptions{}), n.addNode(lab.HostOptions{})
	far.start("-probe=0")
	far.waitReady()
	lease := n.get(far.key()).value
	far.run("ip", "route", "add", "local", "10.0.0.0/9", "dev", "lo")
	near.start("-probe=0")
	near.waitReady()
	far.waitPeers(soon, near.peer())
	far.daemon.Kill() // its kernel goes on
	a := n.admin
	n.atOnce(0, peers, func(p peer) error { return a.put(n.ctx, keyPrefix+"/"+p.key(), lease, time.Hour) })
	_, err := near.daemon.Stop(soon)
	check(b, err)
	near.start(fmt.Sprintf("-probe=%d", budget))
	near.waitReady()
	n.pause(20 * time.Second)
	before := near.cpu()
	n.pause(time.Minute)
	b.ReportMetric((near.cpu()-before).Seconds()/60*100, "idle-cpu-%")
	b.ReportMetric(near.memory("VmRSS"), "rss-MB")
	_, s := near.status()
	if s.Peers.Count != peers+1 || len(s.Peers.Troubled) > 0 {
		b.Errorf("peers are %+v", s.Peers)
	}
	b.ReportMetric(float64(s.Peers.Reachable), "answered")
	b.ReportMetric(0, "ns/op")
}
