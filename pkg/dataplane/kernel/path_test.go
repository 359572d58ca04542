package kernel

import (
	"context"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/ip"
)

// ipCommand gives commands to ip(8), one a line.
func ipCommand(t *testing.T, lines string, options ...string) {
	t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "ip", append(options, "-batch", "-")...)
	cmd.Stdin = strings.NewReader(lines)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("ip -batch: %v\n%s", err, out)
	}
}

// pathHost is a host with eth0, a router behind it, a bridge for pods, and a VPN that
// takes what a rule sends to its table.
func pathHost(t *testing.T) *Kernel {
	t.Helper()
	h := freshHost(t)
	for _, err := range []error{
		h.AddLink("eth0"), h.AddAddr("eth0", netip.MustParsePrefix("192.168.5.1/16")), h.AddLink("pods"), h.AddLink("vpn"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	ipCommand(t, `addr add 10.5.1.1/24 dev pods
route add 192.168.7.0/24 via 192.168.5.254
route add blackhole 10.5.4.0/24
route add 10.5.2.0/24 via 192.168.5.2 dev eth0 proto 70
route add 10.5.2.128/25 dev vpn
route add 10.5.0.0/16 dev vpn table 52 proto static metric 7
rule add prio 5270 to 10.5.3.0/24 lookup 52
rule add prio 5271 iif pods to 10.5.5.0/24 lookup 52
rule add prio 5272 to 10.5.6.0/24 prohibit
rule add prio 5273 not fwmark 0x10/0xff lookup 53`)
	t.Cleanup(func() {
		for _, args := range []string{"rule del prio 5270", "rule del prio 5271", "rule del prio 5272", "rule del prio 5273", "route flush table 52", "route del blackhole 10.5.4.0/24"} {
			if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
				t.Errorf("ip %s: %v\n%s", args, err, out)
			}
		}
	})
	return New()
}

func TestPaths(t *testing.T) {
	k := pathHost(t)
	a := netip.MustParseAddr
	if err := exec.Command("sysctl", "-qw", "net.ipv4.ip_forward=1").Run(); err != nil {
		t.Fatal(err)
	}
	fromPod := func(to string) PathQuery { return PathQuery{To: a(to), From: a("10.5.1.9"), IIF: "pods"} }
	cases := []struct {
		query PathQuery
		want  Path
		match string // the route that decides
	}{
		{PathQuery{To: a("192.168.6.2")}, Path{Dev: "eth0"}, "192.168.0.0/16 dev eth0 proto kernel scope link src 192.168.5.1"},
		{PathQuery{To: a("192.168.7.2"), From: a("192.168.5.1")}, Path{Dev: "eth0", Via: a("192.168.5.254")}, "192.168.7.0/24 via 192.168.5.254 dev eth0 proto boot"},
		{PathQuery{To: a("10.5.2.1")}, Path{Dev: "eth0", Via: a("192.168.5.2")}, "10.5.2.0/24 via 192.168.5.2 dev eth0 proto 70"},
		{fromPod("10.5.2.1"), Path{Dev: "eth0", Via: a("192.168.5.2")}, "10.5.2.0/24 via 192.168.5.2 dev eth0 proto 70"},
		{PathQuery{To: a("10.5.2.129")}, Path{Dev: "vpn"}, "10.5.2.128/25 dev vpn proto boot scope link"},
		{PathQuery{To: a("10.5.3.1")}, Path{Dev: "vpn"}, "10.5.0.0/16 dev vpn proto static scope link metric 7 table 52"},
		{fromPod("10.5.5.1"), Path{Dev: "vpn"}, "10.5.0.0/16 dev vpn proto static scope link metric 7 table 52"},
		{PathQuery{To: a("10.5.5.1")}, Path{Err: unix.ENETUNREACH}, ""},
		{PathQuery{To: a("10.5.4.1")}, Path{Err: unix.EINVAL}, ""},
		{PathQuery{To: a("10.5.6.1")}, Path{Err: unix.EACCES}, ""},
		{PathQuery{To: a("10.5.2.1"), From: a("10.5.1.9"), IIF: "gone"}, Path{Err: unix.ENODEV}, ""},
		{PathQuery{To: a("10.5.1.1")}, Path{Dev: "lo", Local: true}, "local 10.5.1.1/32 dev pods proto kernel src 10.5.1.1 table local"},
	}
	var queries []PathQuery
	for range 30 { // several batches
		for _, c := range cases {
			queries = append(queries, c.query)
		}
	}
	paths, err := k.Paths(t.Context(), queries)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range paths {
		if c := cases[i%len(cases)]; p != c.want {
			t.Errorf("%+v goes %+v, want %+v", c.query, p, c.want)
		}
	}
	for _, c := range cases {
		r, ok, err := k.Matched(c.query)
		if err != nil || ok != (c.match != "") || r.String() != c.match {
			t.Errorf("%+v is matched by %q, %v, %v; want %q", c.query, r, ok, err, c.match)
		}
	}
}

func TestForeignRoutes(t *testing.T) {
	k := pathHost(t)
	network := netip.MustParsePrefix("10.5.0.0/16")
	routes, err := k.ForeignRoutes(t.Context(), ip.V4, network.Overlaps)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range routes {
		got = append(got, r.String())
	}
	want := []string{
		"10.5.0.0/16 dev vpn proto static scope link metric 7 table 52",
		"10.5.1.0/24 dev pods proto kernel scope link src 10.5.1.1",
		"10.5.2.128/25 dev vpn proto boot scope link",
		"blackhole 10.5.4.0/24 proto boot",
		"local 10.5.1.1/32 dev pods proto kernel src 10.5.1.1 table local",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("routes:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestRules(t *testing.T) {
	k := pathHost(t)
	rules, err := k.Rules(t.Context(), ip.V4)
	if err != nil {
		t.Fatal(err)
	}
	a := netip.MustParseAddr
	for i, c := range []struct {
		text          string
		fits          PathQuery
		not           PathQuery
		table         uint32
		refuses, asks bool
	}{
		{"0: from all lookup local", PathQuery{To: a("10.5.3.1")}, PathQuery{}, unix.RT_TABLE_LOCAL, false, true},
		{"5270: from all to 10.5.3.0/24 lookup 52", PathQuery{To: a("10.5.3.1")}, PathQuery{To: a("10.5.4.1")}, 52, false, true},
		{"5271: from all to 10.5.5.0/24 iif pods lookup 52", PathQuery{To: a("10.5.5.1"), IIF: "pods"}, PathQuery{To: a("10.5.5.1")}, 52, false, true},
		{"5272: from all to 10.5.6.0/24 prohibit", PathQuery{To: a("10.5.6.1")}, PathQuery{To: a("10.5.7.1")}, 0, true, false},
		{"5273: not from all fwmark 0x10 lookup 53", PathQuery{To: a("10.5.6.1")}, PathQuery{}, 53, false, true},
		{"32766: from all lookup main", PathQuery{To: a("10.5.3.1")}, PathQuery{}, unix.RT_TABLE_MAIN, false, true},
	} {
		if i >= len(rules) {
			t.Fatalf("there are only %d rules", len(rules))
		}
		r := rules[i]
		if r.String() != c.text || r.Refuses() != c.refuses || r.LooksUp(c.table) != c.asks {
			t.Errorf("rule %q refuses: %v, looks up %d: %v; want %q", r, r.Refuses(), c.table, r.LooksUp(c.table), c.text)
		}
		if !r.Matches(c.fits) || c.not.To.IsValid() && r.Matches(c.not) {
			t.Errorf("%s matches %+v: %v, %+v: %v", r, c.fits, r.Matches(c.fits), c.not, r.Matches(c.not))
		}
	}
}

// Whoever changes a rule, or a route of another table, changes the ways of packets.
func TestPathEvents(t *testing.T) {
	h := freshHost(t)
	if err := h.AddLink("eth0"); err != nil {
		t.Fatal(err)
	}
	w := watch(overlay{T: t, k: New()})
	for _, line := range []string{
		"route add 10.5.0.0/16 dev eth0 table 52", "rule add prio 5270 lookup 52", "rule del prio 5270", "route del 10.5.0.0/16 table 52",
		"route add 10.5.0.0/16 dev eth0 metric 5", "route del 10.5.0.0/16 metric 5",
	} {
		w.flushPaths()
		ipCommand(t, line)
		w.take(line, func(e dataplane.Event) bool { return e.Paths })
	}
}

// flushPaths forgets the events so far.
func (w *witness) flushPaths() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = nil
}

func TestDeleteQuotesTheInterface(t *testing.T) {
	r := rawRoute{dst: netip.MustParsePrefix("10.5.3.0/24"), table: unix.RT_TABLE_MAIN, protocol: unix.RTPROT_STATIC}.tableRoute("$(reboot)")
	if command := r.Delete(); command != "ip route del 10.5.3.0/24 dev '$(reboot)' proto static" {
		t.Error(command)
	}
}
