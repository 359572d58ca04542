package lab_test

import (
	"context"
	"net"
	"net/netip"
	"os"
	"reflect"
	"testing"
	"time"

	"flanneld/pkg/lab"
)

func TestHostsOnASwitch(t *testing.T) {
	t.Parallel()
	_, h1, h2 := twoHosts(t)
	wantPing(t, h1.Namespace, h2.Addr)
	wantPing(t, h2.Namespace, h1.Addr)
	wantRoutes(t, h1.Namespace,
		"192.168.50.0/24 dev eth0 proto 2 scope link src 192.168.50.2",
		"default via 192.168.50.1 dev eth0 proto 3")
	if h1.Inode() == h2.Inode() {
		t.Error("both hosts are in one namespace")
	}
	if _, err := os.Stat(h1.Path()); err != nil {
		t.Error(err)
	}
}

func TestRouter(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	a := must(l.AddSwitch("a", netip.MustParsePrefix("10.0.1.0/24")))(t)
	b := must(l.AddSwitch("b", netip.MustParsePrefix("10.0.2.0/24")))(t)
	h1 := must(l.AddHost("h1", a, lab.HostOptions{}))(t)
	h2 := must(l.AddHost("h2", b, lab.HostOptions{}))(t)
	wantNoPing(t, h1.Namespace, h2.Addr)
	r := must(l.AddRouter(a, b))(t)
	wantPing(t, h1.Namespace, h2.Addr)
	check(t, r.CutOff("eth1"))
	wantNoPing(t, h1.Namespace, h2.Addr)
	check(t, r.Restore("eth1"))
	wantPing(t, h1.Namespace, h2.Addr)
}

func TestHostOptions(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	a := must(l.AddSwitch("a", netip.MustParsePrefix("10.0.1.0/24")))(t)
	b := must(l.AddSwitch("b", netip.MustParsePrefix("10.0.2.0/24")))(t)
	bare := must(l.AddHost("bare", a, lab.HostOptions{NoAddress: true}))(t)
	wantRoutes(t, bare.Namespace)
	two := must(l.AddHost("two", a, lab.HostOptions{NoDefaultRoute: true}))(t)
	check(t, two.AddNIC("eth1", b, netip.MustParseAddr("10.0.2.9")))
	wantRoutes(t, two.Namespace,
		"10.0.1.0/24 dev eth0 proto 2 scope link src 10.0.1.2",
		"10.0.2.0/24 dev eth1 proto 2 scope link src 10.0.2.9")
	check(t, bare.AddAddr("eth0", netip.MustParsePrefix("10.0.1.77/24")))
	wantPing(t, two.Namespace, netip.MustParseAddr("10.0.1.77"))
	check(t, bare.FlushAddrs("eth0"))
	wantRoutes(t, bare.Namespace)
}

func TestCutOffAndRestore(t *testing.T) {
	t.Parallel()
	_, h1, h2 := twoHosts(t)
	wantPing(t, h1.Namespace, h2.Addr)
	before := must(h2.Routes())(t)
	check(t, h2.CutOff("eth0"))
	wantNoPing(t, h1.Namespace, h2.Addr)
	wantRoutes(t, h2.Namespace, before...) // its carrier is still up
	check(t, h2.Restore("eth0"))
	wantPing(t, h1.Namespace, h2.Addr)
}

func TestLinkDownAndUp(t *testing.T) {
	t.Parallel()
	_, h1, h2 := twoHosts(t)
	before := must(h1.Routes())(t)
	check(t, h1.AddRoute(lab.Route{Dst: netip.MustParsePrefix("10.1.0.0/16"), Via: h2.Addr}))
	check(t, h1.LinkDown("eth0"))
	wantRoutes(t, h1.Namespace)
	check(t, h1.LinkUp("eth0"))
	wantRoutes(t, h1.Namespace, before...)
	wantPing(t, h1.Namespace, h2.Addr)
}

func TestRecreateNIC(t *testing.T) {
	t.Parallel()
	_, h1, h2 := twoHosts(t)
	check(t, h1.SetMTU("eth0", 1400))
	eth0 := func() (i *net.Interface) {
		check(t, h1.Do(func() (err error) { i, err = net.InterfaceByName("eth0"); return err }))
		return i
	}
	old, routes := eth0(), must(h1.Routes())(t)
	check(t, h1.AddRoute(lab.Route{Dst: netip.MustParsePrefix("10.1.0.0/16"), Via: h2.Addr}))
	check(t, h1.RecreateNIC("eth0"))
	wantRoutes(t, h1.Namespace, routes...)
	wantPing(t, h1.Namespace, h2.Addr)
	now := eth0()
	if now.Index == old.Index || now.MTU != 1400 || now.HardwareAddr.String() != old.HardwareAddr.String() {
		t.Errorf("the interface was %+v and is %+v", old, now)
	}
}

func TestRoutes(t *testing.T) {
	t.Parallel()
	_, h1, h2 := twoHosts(t)
	base := must(h1.Routes())(t)
	add := func(r lab.Route) { t.Helper(); check(t, h1.AddRoute(r)) }
	dst := netip.MustParsePrefix
	add(lab.Route{Dst: dst("10.1.2.0/24"), Via: h2.Addr, Protocol: 77})
	add(lab.Route{Dst: dst("10.1.3.0/24"), Via: h2.Addr, Dev: "eth0", Protocol: 77, Metric: 5})
	add(lab.Route{Dst: dst("10.1.4.0/24"), Dev: "eth0"})
	if err := h1.AddRoute(lab.Route{Dst: dst("10.1.2.0/24"), Via: h2.Addr}); err == nil {
		t.Error("a second route to the same destination was accepted")
	}
	check(t, h1.ReplaceRoute(lab.Route{Dst: dst("10.1.4.0/24"), Via: h2.Addr, Protocol: 4}))
	wantRoutes(t, h1.Namespace, append([]string{
		"10.1.2.0/24 via 192.168.50.3 dev eth0 proto 77",
		"10.1.3.0/24 via 192.168.50.3 dev eth0 proto 77 metric 5",
		"10.1.4.0/24 via 192.168.50.3 dev eth0 proto 4",
	}, base...)...)
	check(t, h1.DelRoute(dst("10.1.4.0/24")))
	if err := h1.DelRoute(dst("10.1.4.0/24")); err == nil {
		t.Error("a route was deleted twice")
	}
	if n := must(h1.DelRoutesByProtocol(77))(t); n != 2 {
		t.Errorf("%d routes deleted, want 2", n)
	}
	wantRoutes(t, h1.Namespace, base...)
	check(t, h1.DelRoute(dst("192.168.50.0/24"))) // one with the scope of a link
}

// podsOnHosts are two pods on two hosts with routes to each other's subnet.
func podsOnHosts(t *testing.T) (h1, h2 *lab.Host, p1, p2 *lab.Pod) {
	t.Helper()
	_, h1, h2 = twoHosts(t)
	env := func(subnet string) map[string]string {
		return map[string]string{"FLANNEL_SUBNET": subnet, "FLANNEL_MTU": "1450"}
	}
	p1 = must(h1.AddPod("p1", env("10.5.1.1/24")))(t)
	p2 = must(h2.AddPod("p2", env("10.5.2.1/24")))(t)
	check(t, h1.AddRoute(lab.Route{Dst: netip.MustParsePrefix("10.5.2.0/24"), Via: h2.Addr}))
	check(t, h2.AddRoute(lab.Route{Dst: netip.MustParsePrefix("10.5.1.0/24"), Via: h1.Addr}))
	return h1, h2, p1, p2
}

func TestPods(t *testing.T) {
	t.Parallel()
	h1, _, p1, p2 := podsOnHosts(t)
	if want := netip.MustParseAddr("10.5.1.2"); p1.Addr != want {
		t.Errorf("the first pod's address is %s, want %s", p1.Addr, want)
	}
	wantPing(t, p1.Namespace, p2.Addr)
	neighbour := must(h1.AddPod("p3", map[string]string{"FLANNEL_SUBNET": "10.5.1.1/24", "FLANNEL_MTU": "1450"}))(t)
	wantPing(t, neighbour.Namespace, p1.Addr)
	wantPing(t, neighbour.Namespace, p2.Addr)
	must(p1.Transfer(testContext(t), p2, 5_000_003))(t)
	check(t, p1.Do(func() error {
		eth0, err := net.InterfaceByName("eth0")
		if err == nil && eth0.MTU != 1450 {
			t.Errorf("the pod's MTU is %d", eth0.MTU)
		}
		return err
	}))
	must(h1.AddPod("p4", map[string]string{"FLANNEL_SUBNET": "10.5.9.1/24", "FLANNEL_MTU": "1400"}))(t)
	addrs := must(h1.Addrs("docker0"))(t)
	if want := []netip.Prefix{netip.MustParsePrefix("10.5.9.1/24")}; !reflect.DeepEqual(addrs, want) {
		t.Errorf("docker0 has %s, want %s", addrs, want)
	}
}

func TestPinger(t *testing.T) {
	t.Parallel()
	_, h2, p1, p2 := podsOnHosts(t)
	wantPing(t, p1.Namespace, p2.Addr)
	pinger := must(p1.StartPinger(p2.Addr, 2*time.Millisecond))(t)
	time.Sleep(shortly)
	report := pinger.Stop()
	t.Log(report)
	if report.Lost != 0 || report.LongestGap != 0 || report.Sent < 50 || report.Received != report.Sent {
		t.Errorf("on a good path: %+v", report)
	}
	pinger = must(p1.StartPinger(p2.Addr, 2*time.Millisecond))(t)
	time.Sleep(shortly / 3)
	check(t, h2.CutOff("eth0"))
	time.Sleep(shortly)
	check(t, h2.Restore("eth0"))
	time.Sleep(shortly / 3)
	report = pinger.Stop()
	t.Log(report)
	if report.LongestGap < shortly*9/10 || report.LongestGap > 2*time.Second || report.Lost != len(report.LostAt) {
		t.Errorf("on a broken path: %s", report)
	}
	check(t, p1.DelRoute(netip.MustParsePrefix("0.0.0.0/0")))
	pinger = must(p1.StartPinger(p2.Addr, 2*time.Millisecond))(t)
	time.Sleep(20 * time.Millisecond)
	if report = pinger.Report(); report.SendErr == nil || report.Lost != report.Sent {
		t.Errorf("without a route: %s", report)
	}
	// The pinger goes on: closing the lab must end it.
}

func TestTransferBroken(t *testing.T) {
	t.Parallel()
	h1, _, p1, p2 := podsOnHosts(t)
	check(t, h1.CutOff("eth0"))
	ctx := testContext(t)
	start := time.Now()
	cut, cancel := context.WithTimeout(ctx, shortly)
	defer cancel()
	if _, err := p1.Transfer(cut, p2, 1000); err == nil {
		t.Error("a transfer to a pod that is cut off succeeded")
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("the transfer's end came after %s", took)
	}
}

func TestStream(t *testing.T) {
	t.Parallel()
	h1, _, p1, p2 := podsOnHosts(t)
	s := p1.StartStream(testContext(t), p2)
	waitFor(t, "a stream to run", func() bool { return s.Sent() > 1<<20 })
	check(t, s.Finish())

	ctx, cancel := context.WithCancel(testContext(t))
	s = p1.StartStream(ctx, p2)
	waitFor(t, "another stream to run", func() bool { return s.Sent() > 1<<20 })
	check(t, h1.CutOff("eth0"))
	time.AfterFunc(shortly, cancel)
	if err := s.Finish(); err == nil {
		t.Error("a stream that is cut off has arrived")
	}
}
