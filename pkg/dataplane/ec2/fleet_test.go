package ec2_test

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"

	"flanneld/backend"
	"flanneld/backend/awsvpc"
	"flanneld/network"
	"flanneld/pkg/dataplane/ec2"
	"flanneld/pkg/ip"
	"flanneld/pkg/lab/fakeaws"
	"flanneld/subnet"
)

// fleet is hosts that keep their routes in one table, under the limits that EC2
// documents. All that is no part of it is left out: their leases are there.
type fleet struct {
	*testing.T
	*fakeaws.Cloud
	table  *fakeaws.RouteTable
	config *subnet.Config
	hosts  []*fakeaws.Instance
	leases []*subnet.Lease
	dual   chan struct{} // closed when config is of both families
}

// distant is a way on which a call of EC2 takes as long as it does.
type distant struct{ http.RoundTripper }

func (d distant) RoundTrip(in *http.Request) (*http.Response, error) {
	if in.URL.Hostname() != fakeaws.MetadataAddr {
		time.Sleep(100 * time.Millisecond)
	}
	return d.RoundTripper.RoundTrip(in)
}

func newFleet(t *testing.T, n int) *fleet {
	f := &fleet{T: t, Cloud: fakeaws.New(fakeaws.Options{}), dual: make(chan struct{})}
	f.SetRouteLimit(n + 2)
	v, err := f.AddVPC("10.0.0.0/16")
	f.check(err)
	f.table = v.Main
	s, err := v.AddSubnet("10.0.0.0/20", "a")
	f.check(err)
	f.check(v.AssociateIPv6("2001:db8:10::/56"))
	f.check(s.AssociateIPv6("2001:db8:10::/64"))
	f.config, err = subnet.ParseConfig(fmt.Appendf(nil, `{"Network": "10.128.0.0/9", "Backend": {"Type": "aws-vpc", "RouteTableID": %q}}`, f.table.ID))
	f.check(err)
	for i := range n {
		host, err := f.RunInstance(s, fakeaws.InstanceOptions{Role: "node"})
		f.check(err)
		f.hosts = append(f.hosts, host)
		f.leases = append(f.leases, &subnet.Lease{
			Subnet: ip.SubnetOf(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(128 + i>>8), byte(i), 0}), 24)),
			Attrs:  subnet.Attrs{PublicIP: ip.Addrs{V4: host.Interface().Addr}},
		})
	}
	return f
}

func (f *fleet) check(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// addIPv6 has the network, and all leases, be of both families.
func (f *fleet) addIPv6() {
	var err error
	f.config, err = subnet.ParseConfig(fmt.Appendf(nil, `{"Network": "10.128.0.0/9", "EnableIPv6": true, "IPv6Network": "fd00:5::/48", "Backend": {"Type": "aws-vpc", "RouteTableID": %q}}`, f.table.ID))
	f.check(err)
	leases := make([]*subnet.Lease, len(f.leases))
	for i, l := range f.leases {
		both := *l
		both.Subnet.V6 = netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 3: 5, 6: byte(i >> 8), 7: byte(i)}), 64)
		both.PublicIP.V6 = f.hosts[i].Interface().In(ip.V6)
		leases[i] = &both
	}
	f.leases = leases
	close(f.dual)
}

// desire is that of a host, where the first of all leases are known.
func (f *fleet) desire(host, leases int) network.Desired {
	b, err := backend.NewTable(awsvpc.Type).New(f.config)
	f.check(err)
	var h backend.Host
	for _, family := range f.config.Network().Families() {
		addr := f.hosts[host].Interface().In(family)
		h.Set(family, backend.Underlay{Iface: "eth0", MTU: 9001, Up: true, Addr: addr, PublicIP: addr})
	}
	peers := slices.Clone(f.leases[:leases])
	return network.Desired{
		Backend: b, Config: f.config, Own: f.leases[host],
		Host:     h,
		Networks: f.config.Network().Prefixes(),
		Peers:    slices.DeleteFunc(peers, func(l *subnet.Lease) bool { return l == f.leases[host] }),
	}
}

// run starts the hosts evenly within some time; each gets to know every second which
// leases there are. It ends some time after all have their routes, and returns how long
// it took until they had.
func (f *fleet) run(within, after time.Duration) (routed time.Duration) {
	ctx, cancel := context.WithCancel(context.Background())
	var g sync.WaitGroup
	defer g.Wait()
	defer cancel()
	begin, n := time.Now(), len(f.hosts)
	for i, host := range f.hosts {
		t := ec2.New(
			config.WithHTTPClient(&http.Client{Transport: distant{f.Transport(host)}}),
			config.WithBaseEndpoint("http://ec2.test"),
			config.WithSharedConfigFiles([]string{}), config.WithSharedCredentialsFiles([]string{}),
		)
		r := network.NewReconciler(func(network.Status) {}, network.Plane{Dataplane: t, Pace: network.Pace{RetryFirst: ec2.RetryFirst, RetryMost: ec2.RetryMost}})
		g.Go(func() { _ = r.Run(ctx) })
		g.Go(func() {
			time.Sleep(within * time.Duration(i) / time.Duration(n))
			for known := 0; known < n && ctx.Err() == nil; time.Sleep(time.Second) {
				known = n
				if within > 0 {
					known = min(n, max(i+1, int(time.Since(begin)*time.Duration(n)/within)))
				}
				r.SetDesired(f.desire(i, known))
			}
			select {
			case <-ctx.Done():
			case <-f.dual:
				r.SetDesired(f.desire(i, n))
			}
		})
	}
	for f.routes() < n {
		if time.Since(begin) > time.Hour {
			f.Fatalf("only %d routes after an hour", f.routes())
		}
		time.Sleep(time.Second)
	}
	routed = time.Since(begin)
	time.Sleep(after)
	return routed
}

// routes is how many routes there are beside the local ones.
func (f *fleet) routes() int { return len(f.table.Routes()) - 2 }

// tally counts the calls by action, and in all, and those that were refused as too many;
// and forgets them.
func (f *fleet) tally() (calls map[string]int, all, refused int) {
	calls = make(map[string]int)
	for _, c := range f.Calls() {
		calls[c.Action]++
		all++
		if c.Code == "RequestLimitExceeded" {
			refused++
		}
	}
	f.ForgetCalls()
	return calls, all, refused
}

// Hosts that are all started at once stay within the limits: only by chance some calls
// are refused. Each writes once; and not at all when it is started again.
func TestFleet(t *testing.T) {
	n := 500
	if raceEnabled {
		n = 200 // most of the time goes by in reading XML
	}
	few := n / 20
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, n)
		routed := f.run(0, 5*time.Second)
		calls, all, refused := f.tally()
		t.Logf("routed after %s, calls %v, %d refused", routed, calls, refused)
		if calls["CreateRoute"] > n+few || calls["ReplaceRoute"]+calls["DeleteRoute"] > 0 || all > 7*n || refused > few || routed > 5*time.Minute {
			t.Errorf("%d calls, or too long", all)
		}
		f.run(0, 2*time.Minute)
		calls, all, refused = f.tally()
		t.Logf("again: calls %v, %d refused", calls, refused)
		if calls["DescribeRouteTables"]+calls["DescribeNetworkInterfaceAttribute"] < all || all > 5*n || refused > few {
			t.Errorf("%d calls", all)
		}
	})
}

// IPv6 is turned on in a network that runs, and all hosts hear of that at the same time: there are
// so many new routes, few calls are refused, and what there is of IPv4 is left alone.
func TestFleetAddsIPv6(t *testing.T) {
	const n = 50
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, n)
		time.AfterFunc(2*time.Minute, f.addIPv6)
		f.run(0, 5*time.Minute)
		calls, all, refused := f.tally()
		t.Logf("calls %v, %d refused", calls, refused)
		if calls["CreateRoute"] > 2*n+n/20 || calls["ReplaceRoute"]+calls["DeleteRoute"] > 0 || all > 25*n || refused > n/20 || f.routes() != 2*n {
			t.Errorf("%d calls, %d routes", all, f.routes())
		}
	})
}

// Few calls are wasted if hosts are started within some seconds, and do not know at
// first how many they will be.
func TestFleetGrows(t *testing.T) {
	const n = 100
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, n)
		routed := f.run(10*time.Second, 0)
		calls, all, refused := f.tally()
		t.Logf("routed after %s, calls %v, %d refused", routed, calls, refused)
		if all > 8*n || refused > 2*n || routed > 3*time.Minute {
			t.Errorf("%d calls, or too long", all)
		}
	})
}

// Where others have used up the limits, hosts do not make it worse for long.
func TestFleetRefused(t *testing.T) {
	const n = 100
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, n)
		f.SetLimit(fakeaws.Mutating, fakeaws.Limit{Burst: 1, Refill: 1})
		routed := f.run(0, 0)
		calls, all, refused := f.tally()
		t.Logf("routed after %s, calls %v, %d refused", routed, calls, refused)
		if refused > 8*n || routed > 15*time.Minute {
			t.Errorf("%d calls, or too long", all)
		}
	})
}

// Hosts that are gone leave routes behind. Few of the others delete them, and not all,
// though what EC2 shows is some seconds old; and only what they have just seen.
func TestFleetCleansUp(t *testing.T) {
	const n, gone = 100, 20
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, n)
		f.SetRouteLimit(n + gone + 1)
		f.SetLag(5 * time.Second)
		for _, host := range f.hosts {
			host.Interface().SetSourceDestCheck(false)
		}
		time.Sleep(time.Minute)
		var left []*fakeaws.Instance
		for i := range gone {
			host, err := f.RunInstance(f.hosts[0].Interface().Subnet, fakeaws.InstanceOptions{})
			f.check(err)
			f.check(f.table.CreateRoute(fmt.Sprintf("10.255.%d.0/24", i), host.Interface().ID))
			left = append(left, host)
		}
		time.AfterFunc(3*time.Minute+40*time.Second, func() {
			for _, host := range left {
				host.Terminate()
			}
		})
		f.run(0, 10*time.Minute)
		looks := make(map[string]time.Time) // by who did
		deleted := 0
		for _, c := range f.Calls() {
			switch c.Action {
			case "DescribeRouteTables":
				looks[c.AccessKeyID] = c.Time
			case "DeleteRoute":
				deleted++
				if old := c.Time.Sub(looks[c.AccessKeyID]); old > time.Second {
					t.Errorf("a route was deleted that was seen %s before", old)
				}
			}
		}
		if t.Logf("%d deletes", deleted); deleted > 4*gone || f.routes() != n {
			t.Errorf("%d calls of DeleteRoute, %d routes left", deleted, f.routes())
		}
	})
}

// From the start of all hosts at once until all have their routes, on a clock that leaps
// to when something happens next:
//
//	routed-s    how long it takes, in seconds
//	calls       of the API, in all
//	refused     of those, as too many
//	ACTION      of those, by action
//	restart-calls, restart-refused    where all are started again, until each has looked
//	                                  at everything
func BenchmarkFleet(b *testing.B) {
	for _, n := range []int{1, 100, 500} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				onFakeClock(b, func(t *testing.T) {
					f := newFleet(t, n)
					b.ReportMetric(f.run(0, 0).Seconds(), "routed-s")
					calls, all, refused := f.tally()
					b.ReportMetric(float64(all), "calls")
					b.ReportMetric(float64(refused), "refused")
					for action, n := range calls {
						b.ReportMetric(float64(n), action)
					}
					f.run(0, 2*time.Minute)
					_, all, refused = f.tally()
					b.ReportMetric(float64(all), "restart-calls")
					b.ReportMetric(float64(refused), "restart-refused")
				})
			}
		})
	}
}

// onFakeClock runs a part of a benchmark with time of its own, which only tests can have.
func onFakeClock(b *testing.B, fn func(*testing.T)) {
	b.Helper()
	if !testing.RunTests(
		func(string, string) (bool, error) { return true, nil },
		[]testing.InternalTest{{Name: b.Name(), F: func(t *testing.T) { synctest.Test(t, fn) }}},
	) {
		b.Fatal("failed")
	}
}
