package subnet

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/ip"
)

func leaseOf(p string) *Lease {
	return &Lease{Subnet: ip.SubnetOf(netip.MustParsePrefix(p))}
}

// anyLease: each lease may linger.
func anyLease(*Lease) bool { return true }

func subnetsOf(leases []*Lease) string {
	var s []string
	for _, l := range leases {
		s = append(s, l.Subnet.String())
	}
	return strings.Join(s, " ")
}

func TestLinger(t *testing.T) {
	a, b, c, d := leaseOf("10.5.1.0/24"), leaseOf("10.5.2.0/24"), leaseOf("10.5.3.0/24"), leaseOf("10.5.4.0/24")
	none := ip.Subnet{}
	start := time.Now()
	var g Linger
	for _, step := range []struct {
		after time.Duration
		peers []*Lease
		own   ip.Subnet
		want  string
		next  time.Duration // after start; 0 for never
	}{
		{0, []*Lease{a, b, c}, none, "10.5.1.0/24 10.5.2.0/24 10.5.3.0/24", 0},
		{1 * time.Second, []*Lease{a, c}, none, "10.5.1.0/24 10.5.2.0/24 10.5.3.0/24", 11 * time.Second},
		{2 * time.Second, nil, none, "10.5.1.0/24 10.5.2.0/24 10.5.3.0/24", 11 * time.Second},
		{3 * time.Second, []*Lease{c, d}, none, "10.5.1.0/24 10.5.2.0/24 10.5.3.0/24 10.5.4.0/24", 11 * time.Second},
		{11 * time.Second, []*Lease{c, d}, none, "10.5.1.0/24 10.5.3.0/24 10.5.4.0/24", 12 * time.Second},
		{11 * time.Second, []*Lease{c, d}, a.Subnet, "10.5.3.0/24 10.5.4.0/24", 0},
		{13 * time.Second, []*Lease{c, d}, none, "10.5.3.0/24 10.5.4.0/24", 0},
		{14 * time.Second, []*Lease{a}, none, "10.5.1.0/24 10.5.3.0/24 10.5.4.0/24", 24 * time.Second},
		{24 * time.Second, []*Lease{a}, none, "10.5.1.0/24", 0},
	} {
		got, next := g.Apply(step.peers, step.own, start.Add(step.after), anyLease)
		if s := subnetsOf(got); s != step.want {
			t.Errorf("after %s: %s, want %s", step.after, s, step.want)
		}
		var want time.Time
		if step.next != 0 {
			want = start.Add(step.next)
		}
		if !next.Equal(want) {
			t.Errorf("after %s: next is %s after the start, want %s", step.after, next.Sub(start), step.next)
		}
	}
}

// What is gone makes room for what comes, and what may not stay goes at once.
func TestLingerMakesRoom(t *testing.T) {
	a, b, c := leaseOf("10.5.0.0/21"), leaseOf("10.5.8.0/24"), leaseOf("10.5.9.0/24")
	for _, arrival := range []string{"10.5.0.0/24", "10.5.3.0/24", "10.5.7.0/24", "10.5.0.0/16"} {
		var g Linger
		now := time.Now()
		g.Apply([]*Lease{a, c}, ip.Subnet{}, now, anyLease)
		if got, _ := g.Apply([]*Lease{leaseOf(arrival)}, ip.Subnet{}, now, anyLease); strings.Contains(subnetsOf(got), "10.5.0.0/21") {
			t.Errorf("beside %s there is still 10.5.0.0/21", arrival)
		}
	}
	var g Linger
	now := time.Now()
	g.Apply([]*Lease{a, b, c}, ip.Subnet{}, now, anyLease)
	if got, _ := g.Apply([]*Lease{a}, ip.Subnet{}, now, func(l *Lease) bool { return l != b }); subnetsOf(got) != "10.5.0.0/21 10.5.9.0/24" {
		t.Errorf("in force are %s", subnetsOf(got))
	}
}

// What lingered when the daemon ended goes on to linger in the next one, for as long as is
// left of its time; what was in force begins when it is found to be gone.
func TestLingerResumes(t *testing.T) {
	none := ip.Subnet{}
	start := time.Now()
	a, b, c, d := leaseOf("10.5.1.0/24"), leaseOf("10.5.2.0/24"), leaseOf("10.5.3.0/24"), leaseOf("10.5.4.0/24")
	saved := []Vanished{
		{c, start.Add(-4 * time.Second)},
		{d, start.Add(-LingerTime)},
		{leaseOf("10.5.5.0/24"), start.Add(time.Hour)}, // the clock was set back
	}
	var g Linger
	g.Resume([]*Lease{a, b}, saved, start)
	for _, step := range []struct {
		after time.Duration
		want  string
	}{
		{0, "10.5.1.0/24 10.5.2.0/24 10.5.3.0/24 10.5.5.0/24"},
		{6 * time.Second, "10.5.1.0/24 10.5.2.0/24 10.5.5.0/24"},
		{10 * time.Second, "10.5.1.0/24"},
	} {
		got, _ := g.Apply([]*Lease{a}, none, start.Add(step.after), anyLease)
		if s := subnetsOf(got); s != step.want {
			t.Errorf("after %s: %s, want %s", step.after, s, step.want)
		}
	}

	g = Linger{}
	g.Resume([]*Lease{a, b}, saved[:1], start)
	g.Apply([]*Lease{a}, none, start.Add(time.Second), anyLease)
	gone := g.Gone()
	if len(gone) != 2 || gone[0].Lease != b || !gone[0].Since.Equal(start.Add(time.Second)) || gone[1].Lease != c || !gone[1].Since.Equal(start.Add(-4*time.Second)) {
		t.Errorf("gone are %v", gone)
	}
	g.Apply([]*Lease{a, c}, none, start.Add(time.Minute), anyLease)
	if gone := g.Gone(); gone != nil {
		t.Errorf("gone are %v", gone)
	}
}

// A lease that vanished does not lead to a host inside the subnet of another one: were the
// address of that one inside its own, packets would go round in circles.
func TestLingerInsideAnother(t *testing.T) {
	now := time.Now()
	lease := func(key, public string) *Lease {
		l := *leaseOf(key)
		l.PublicIP = ip.Addrs{V4: netip.MustParseAddr(public)}
		return &l
	}
	a, b := lease("10.5.3.0/24", "10.5.200.9"), lease("10.5.4.0/24", "10.5.201.9")
	var g Linger
	g.Apply([]*Lease{a, b}, ip.Subnet{}, now, anyLease)
	if got, _ := g.Apply([]*Lease{lease("10.5.200.0/24", "10.5.3.9")}, ip.Subnet{}, now, anyLease); subnetsOf(got) != "10.5.4.0/24 10.5.200.0/24" {
		t.Errorf("in force are %s", subnetsOf(got))
	}
}
