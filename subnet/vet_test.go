package subnet

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"flanneld/pkg/ip"
)

func TestVet(t *testing.T) {
	c := mustConfig(t, `{"Network":"10.5.0.0/16"}`)
	own := leases(t, "10.5.1.0-24").Leases[0]
	own.PublicIP.V4 = netip.MustParseAddr("192.0.2.1")
	local := []netip.Prefix{netip.MustParsePrefix("10.5.64.0/20")}
	for _, test := range []struct {
		name, key, public string
		reason            string // "" is fit
	}{
		{"fit", "10.5.2.0-24", "192.0.2.2", ""},
		{"below SubnetMin, as a reservation may be", "10.5.0.0-24", "192.0.2.2", ""},
		{"our own", "10.5.1.0-24", "192.0.2.2", "own"},
		{"outside Network", "10.6.2.0-24", "192.0.2.2", "outside Network 10.5.0.0/16"},
		{"shorter than Network", "10.0.0.0-8", "192.0.2.2", "outside Network"},
		{"too short", "10.5.2.0-23", "192.0.2.2", "/24"},
		{"too long", "10.5.2.0-25", "192.0.2.2", "/24"},
		{"within our own", "10.5.1.128-25", "192.0.2.2", "/24"},
		{"the host's own network", "10.5.65.0-24", "192.0.2.2", "external interface"},
		{"our public address", "10.5.2.0-24", "192.0.2.1", "192.0.2.1 is this host's own"},
		{"public address inside", "10.5.2.0-24", "10.5.2.7", "inside the subnet"},
		{"a family that is off", "10.5.2.0-24&fc00::-64", "192.0.2.2", "address family"},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := leases(t, test.key).Leases[0]
			l.PublicIP.V4 = netip.MustParseAddr(test.public)
			peers, problems := new(Vetter).Vet(c, own, local, Snapshot{Leases: []*Lease{l}})
			switch {
			case test.reason == "own":
				if len(peers)+len(problems) != 0 {
					t.Errorf("peers %v, problems %v", peers, problems)
				}
			case test.reason == "":
				if len(peers) != 1 || peers[0] != l || len(problems) != 0 {
					t.Errorf("peers %v, problems %v", peers, problems)
				}
			case len(peers) != 0 || len(problems) != 1:
				t.Errorf("peers %v, problems %v", peers, problems)
			default:
				p := problems[0]
				if !strings.Contains(p.Reason, test.reason) || p.Key != test.key || p.Subnet != l.Subnet {
					t.Errorf("problem %+v does not tell %q", p, test.reason)
				}
			}
		})
	}
}

// Overlap with our own subnet can only be of the same length.
func TestVetOverlapsOwn(t *testing.T) {
	c := mustConfig(t, `{"Network":"10.5.0.0/16"}`)
	own := leases(t, "10.5.1.0-24").Leases[0]
	own.PublicIP.V4 = netip.MustParseAddr("192.0.2.1")
	own.Subnet = ip.SubnetOf(netip.MustParsePrefix("10.5.0.0/23")) // from before a change of SubnetLen
	peers, problems := new(Vetter).Vet(c, own, nil, leases(t, "10.5.1.0-24", "10.5.2.0-24"))
	if len(peers) != 1 || len(problems) != 1 || !strings.Contains(problems[0].Reason, "own subnet") {
		t.Errorf("peers %v, problems %v", peers, problems)
	}
}

// The store's own problems are passed on, in order, but for that of our lease,
// which the keeper mends.
func TestVetProblems(t *testing.T) {
	c := mustConfig(t, `{"Network":"10.5.0.0/16"}`)
	own := leases(t, "10.5.1.0-24").Leases[0]
	own.PublicIP.V4 = netip.MustParseAddr("192.0.2.1")
	s := leases(t, "10.6.0.0-24", "10.5.3.0-24")
	s.Problems = []Problem{
		{Key: "10.5.1.0-24", Subnet: own.Subnet, Reason: "garbage"},
		{Key: "nonsense", Reason: "bad key"},
		{Key: "10.5.9.0-24", Subnet: ip.SubnetOf(netip.MustParsePrefix("10.5.9.0/24")), Reason: "garbage"},
	}
	peers, problems := new(Vetter).Vet(c, own, nil, s)
	if len(peers) != 1 || peers[0].Subnet.String() != "10.5.3.0/24" {
		t.Errorf("peers %v", peers)
	}
	var keys []string
	for _, p := range problems {
		keys = append(keys, p.Key)
	}
	if got := strings.Join(keys, " "); got != "10.5.9.0-24 10.6.0.0-24 nonsense" {
		t.Errorf("problems with %s", got)
	}
}

func TestLocal(t *testing.T) {
	c, err := ParseConfig([]byte(`{"Network":"10.5.0.0/16"}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ addr, want string }{
		{"192.168.0.3/24", "192.168.0.0/24"},
		{"10.5.7.3/24", "10.5.7.0/24"},
		{"10.5.7.3/16", "10.5.7.3/32"},
		{"10.5.7.3/8", "10.5.7.3/32"},
		{"11.5.7.3/8", "11.0.0.0/8"},
	} {
		p := netip.MustParsePrefix(test.addr)
		got := c.Local(ip.Addrs{V4: p.Addr()}, ip.SubnetOf(p.Masked()))
		if len(got) != 1 || got[0] != netip.MustParsePrefix(test.want) {
			t.Errorf("for %s: %v, want %s", test.addr, got, test.want)
		}
	}
}

// Verdicts that are remembered are those that would be given anew.
func TestVetRemembers(t *testing.T) {
	c, err := ParseConfig([]byte(`{"Network":"10.5.0.0/16"}`))
	if err != nil {
		t.Fatal(err)
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	var v Vetter
	var a Assembler
	for range 2000 {
		key := fmt.Sprintf("10.%d.%d.0-%d", 5+rnd.IntN(2), rnd.IntN(20), 23+rnd.IntN(2))
		if rnd.IntN(3) == 0 {
			a.Remove(key)
		} else {
			a.Put(Entry{Key: key, Value: fmt.Sprintf(`{"PublicIP":"192.0.2.%d"}`, rnd.IntN(4)), Revision: rnd.Uint64N(5)})
		}
		own := &Lease{
			Subnet: ip.SubnetOf(netip.MustParsePrefix(fmt.Sprintf("10.5.%d.0/24", rnd.IntN(100)/99))),
			Attrs:  Attrs{PublicIP: ip.Addrs{V4: netip.MustParseAddr("192.0.2.1")}},
		}
		s := a.Snapshot(1)
		peers, problems := v.Vet(c, own, nil, s)
		wantPeers, wantProblems := new(Vetter).Vet(c, own, nil, s)
		if !slices.Equal(peers, wantPeers) || !slices.Equal(problems, wantProblems) {
			t.Fatalf("remembered %v %v, anew %v %v", peers, problems, wantPeers, wantProblems)
		}
	}
}
