package main

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/backend"
	"flanneld/network"
	"flanneld/pkg/dataplane"
	"flanneld/pkg/ip"
	"flanneld/pkg/once"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

// quick is a dataplane that does all at once.
type quick struct{}

func (quick) Dump(context.Context, state.Set) (state.Observed, error) { return state.Observed{}, nil }

func (quick) Apply(_ context.Context, ops []state.Op) []error { return make([]error, len(ops)) }

func (quick) Watch(ctx context.Context, ready func(), _ func(dataplane.Event)) error {
	ready()
	<-ctx.Done()
	return ctx.Err()
}

// slowFollower takes its time for each desired state.
type slowFollower struct{ took func() }

func (s slowFollower) SetDesired(network.Desired) { time.Sleep(time.Second); s.took() }

func (slowFollower) Event(dataplane.Event) {}

func (slowFollower) Run(context.Context) error { return nil }

// A host is ready as soon as its dataplanes are: by then all other parts of the daemon know
// what is desired, however long it takes to tell them.
func TestReadyAfterAllKnowWhatIsDesired(t *testing.T) {
	file := filepath.Join(t.TempDir(), "subnet.env")
	synctest.Test(t, func(t *testing.T) {
		config, err := subnet.ParseConfig([]byte(`{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}`))
		must(t, err)
		b, err := backends.New(config)
		must(t, err)
		reconciler := network.NewReconciler(func(network.Status) {}, network.Plane{Dataplane: quick{}})
		d := &daemon{
			options: &options{}, due: once.NewSlot[time.Time](), addresses: network.NewAddresses(nil, nil),
			reconciler: reconciler, saver: newSaver(&options{}),
			host:     backend.Host{Iface: "eth0", MTU: 1500, Up: true, Addr: ip.Addrs{V4: netip.MustParseAddr("192.0.2.1")}},
			prepared: setup{config: config, backend: b},
		}
		d.publisher = newPublisher(&options{subnetFile: file}, reconciler.Ready(), new(systemd), &network.Obstacles{})
		d.followers = []follower{slowFollower{func() {
			select {
			case <-reconciler.Ready():
				t.Error("ready before all know what is desired")
			default:
			}
		}}}
		ctx, cancel := context.WithCancel(t.Context())
		var g sync.WaitGroup
		g.Go(func() { _ = reconciler.Run(ctx) })
		g.Go(func() { _ = d.publisher.Run(ctx) })
		defer g.Wait()
		defer cancel()
		own := &subnet.Lease{Subnet: ip.SubnetOf(netip.MustParsePrefix("10.5.1.0/24"))}
		d.holds(ctx, subnet.Holding{Config: config, Own: own})
		synctest.Wait()
		if text, err := os.ReadFile(file); err != nil || !strings.Contains(string(text), "FLANNEL_SUBNET=10.5.1.1/24") {
			t.Errorf("the subnet file is %q: %v", text, err)
		}
	})
}

func TestStatusText(t *testing.T) {
	const (
		taken = ", this subnet now belongs to the host with the public address 192.0.2.3 and no other one could be had yet"
		down  = ", etcd cannot be used since "
	)
	for _, test := range []struct {
		name   string
		holder string
		down   time.Time
		want   []string
		not    []string
	}{
		{name: "in order", not: []string{"belongs", "etcd"}},
		{name: "subnet taken", holder: "the host with the public address 192.0.2.3", want: []string{taken}, not: []string{"etcd"}},
		{name: "etcd down", down: time.Now(), want: []string{down}, not: []string{"belongs"}},
		{name: "both", holder: "the host with the public address 192.0.2.3", down: time.Now(), want: []string{taken, down}},
	} {
		f := facts{storeDown: test.down, holding: subnet.Holding{Config: &subnet.Config{}, Own: &subnet.Lease{}, Holder: test.holder}}
		text := f.text("")
		for _, part := range test.want {
			if !strings.Contains(text, part) {
				t.Errorf("%s: %q does not say %q", test.name, text, part)
			}
		}
		for _, part := range test.not {
			if strings.Contains(text, part) {
				t.Errorf("%s: %q speaks of %q", test.name, text, part)
			}
		}
	}
}
