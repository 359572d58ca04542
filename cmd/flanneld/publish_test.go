package main

import (
	"context"
	"fmt"
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
	"flanneld/pkg/dataplane/dataplanetest"
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
		var d *daemon
		reconciler := network.NewReconciler(func(s network.Status) {
			d.publisher.update(func(f *facts) { f.reconciled = s })
		}, network.Plane{Dataplane: quick{}})
		d = &daemon{
			options: &options{}, machine: imagined{dataplanetest.NewFake()}, due: once.NewSlot[time.Time](), addresses: network.NewAddresses(nil, nil),
			reconciler: reconciler, saver: newSaver(&options{}), external: network.NewExternal(network.Selection{}, nil, backend.Host{}, nil, nil),
			host:     backend.Host{V4: backend.Underlay{Iface: "eth0", MTU: 1500, Up: true, Addr: netip.MustParseAddr("192.0.2.1")}},
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

// What is altered or removed is put back within two seconds, and what is wrong with the
// template is in the status until it is mended.
func TestCNIConfigurationIsKept(t *testing.T) {
	dir := t.TempDir()
	file, template := filepath.Join(dir, "10-flannel.conflist"), filepath.Join(dir, "own.tmpl")
	const good = `{"cniVersion": "0.4.0", "name": "x", "plugins": [{"type": "ptp", "mtu": {{.MTU}}, "ranges": {{json .Ranges}}}]}`
	must(t, os.WriteFile(template, []byte(good), 0o644))
	synctest.Test(t, func(t *testing.T) {
		config, err := subnet.ParseConfig([]byte(`{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}`))
		must(t, err)
		b, err := backends.New(config)
		must(t, err)
		ready := make(chan struct{})
		obstacles := &network.Obstacles{}
		defer obstacles.Stop()
		p := newPublisher(&options{subnetFile: filepath.Join(dir, "subnet.env"), cniFile: file, cniTemplate: template}, ready, new(systemd), obstacles)
		ctx, cancel := context.WithCancel(t.Context())
		var g sync.WaitGroup
		g.Go(func() { _ = p.Run(ctx) })
		defer g.Wait()
		defer cancel()
		hold := func(own string, mtu int) {
			p.update(func(f *facts) {
				f.holding = subnet.Holding{Config: config, Own: &subnet.Lease{Subnet: ip.SubnetOf(netip.MustParsePrefix(own))}}
				f.backend, f.host.V4.Iface = b, "eth0"
				f.reconciled.Host.V4 = backend.Underlay{Iface: "eth0", MTU: mtu}
			})
			synctest.Wait()
		}
		says := func(mtu, own string) {
			t.Helper()
			content, err := os.ReadFile(file)
			if text := string(content); err != nil || !strings.Contains(text, `"mtu": `+mtu) || !strings.Contains(text, own) {
				t.Errorf("the file has %q (%v), and is to have the MTU %s and %s", text, err, mtu, own)
			}
		}
		hold("10.5.1.0/24", 1500)
		if _, err := os.Stat(file); err == nil {
			t.Error("it is there before the host is ready")
		}
		close(ready)
		synctest.Wait()
		says("1500", "10.5.1.0/24")
		hold("10.5.1.0/24", 1400)
		says("1400", "10.5.1.0/24")
		hold("10.5.2.0/24", 1400)
		says("1400", "10.5.2.0/24")

		const within = 2*time.Second - time.Millisecond
		must(t, os.Remove(file))
		time.Sleep(within)
		says("1400", "10.5.2.0/24")
		must(t, os.WriteFile(file, nil, 0o644))
		time.Sleep(within)
		says("1400", "10.5.2.0/24")

		must(t, os.WriteFile(template, []byte("\n{{.Mtu}}"), 0o644))
		time.Sleep(time.Minute)
		says("1400", "10.5.2.0/24")
		if text, want := fmt.Sprint(obstacles.Reported()), file+": template "+template+":2:"; !strings.Contains(text, want) {
			t.Errorf("the status has %q, and not %q", text, want)
		}
		must(t, os.WriteFile(template, []byte(strings.Replace(good, "ptp", "other", 1)), 0o644))
		time.Sleep(2 * within)
		says("1400", `"other"`)
		if text := fmt.Sprint(obstacles.Reported()); strings.Contains(text, "template ") {
			t.Errorf("the status still has %q", text)
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
		f := facts{store: "etcd", storeDown: test.down, holding: subnet.Holding{Config: &subnet.Config{}, Own: &subnet.Lease{}, Holder: test.holder}}
		text := f.text(nil)
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
