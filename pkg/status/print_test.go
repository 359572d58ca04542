package status

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

// The screen says all that matters, once, and nothing that a terminal would obey.
func TestPrint(t *testing.T) {
	s := full()
	s.Host = "node-1"
	s.Backend, s.MTU = "vxlan", 1450
	s.Network = []Family{{
		Name: "IPv4", Network: netip.MustParsePrefix("10.5.0.0/16"), Subnet: netip.MustParsePrefix("10.5.1.0/24"), Iface: "eth0",
		Addr: netip.MustParseAddr("192.168.0.2"), PublicIP: netip.MustParseAddr("198.51.100.2"), IfaceMTU: 1500, Device: "flannel.1",
	}}
	s.Store = Store{Name: "etcd", Endpoints: []string{"http://a:1", "http://b:1"}, Down: true, Since: s.At.Add(-90 * time.Second)}
	s.Problems = []Problem{
		{Component: ComponentPackets, Subject: "10.5.7.0/24", Text: "a rule is in the way", Remedy: "ip rule del"},
		{Component: ComponentConfiguration, Text: "not followed: \x1b[31mred\x1b[0m\nproblems   none"},
	}
	s.Peers.Troubled, s.Peers.TroubledCount = nil, 0
	for range 12 {
		s.Peers.TroubledCount++
		s.Peers.Troubled = append(s.Peers.Troubled, Peer{Subnet: "10.5.7.0/24", PublicIP: "192.168.0.7", State: PeerGone, Reason: "it does not answer", Remedy: "ping 192.168.0.7", Since: s.At.Add(-3 * time.Hour)})
	}
	s.Recent = []Event{{At: s.At, Text: "route 10.5.7.0/24: added"}}
	var screen strings.Builder
	if err := s.Print(&screen, s.At); err != nil {
		t.Fatal(err)
	}
	got := screen.String()
	for _, want := range []string{
		"flanneld v1.2.3 on node-1, running for 1h00m: degraded\n",
		"subnet     10.5.1.0/24 of 10.5.0.0/16\n",
		"interface  eth0, 192.168.0.2, reached by 198.51.100.2, MTU 1500\n",
		"backend    vxlan, flannel.1, MTU of pods 1450\n",
		"store      etcd at http://a:1, http://b:1: cannot be used for 1m30s\n",
		"lease      10.5.1.0/24 expires in 1m30s, if it is not renewed\n",
		"peers      7, 5 reachable, 12 in trouble\n",
		"           10.5.7.0/24 (192.168.0.7) gone for 3h00m: it does not answer; see: ping 192.168.0.7\n",
		"           … and 2 more\n",
		"objects    7 wanted, 1 missing (route 7)\n",
		"problems   packets: 10.5.7.0/24: a rule is in the way; mend it by: ip rule del\n",
		"           configuration: not followed: ",
		"route 10.5.7.0/24: added\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("there is no %q in\n%s", want, got)
		}
	}
	if strings.ContainsRune(got, '\x1b') || strings.Contains(got, "\nproblems   none") || strings.Count(got, "gone for") != 10 {
		t.Errorf("the screen is %q", got)
	}
}
