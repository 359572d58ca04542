package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/pkg/dataplane/dataplanetest"
	"flanneld/subnet/subnettest"
)

// Stopped in whatever phase, the daemon ends soon and no goroutine of it is
// left: a bubble does not end with one in it. subnet.env is whole or not there.
func TestStopInAnyPhase(t *testing.T) {
	for _, backend := range []string{"host-gw", "vxlan"} {
		config := fmt.Sprintf(`{"Network":"10.5.0.0/16","Backend":{"Type":%q}}`, backend)
		for name, phase := range map[string]func(fake *dataplanetest.Fake, store *subnettest.Memory){
			"waiting for the configuration": func(_ *dataplanetest.Fake, store *subnettest.Memory) { store.UnsetConfig() },
			"waiting for a good one":        func(_ *dataplanetest.Fake, store *subnettest.Memory) { store.SetConfig("{") },
			"the store hangs":               func(_ *dataplanetest.Fake, store *subnettest.Memory) { store.Hang() },
			"the store is down":             func(_ *dataplanetest.Fake, store *subnettest.Memory) { store.Fail(errors.New("down")) },
			"acquiring":                     func(_ *dataplanetest.Fake, store *subnettest.Memory) { store.Hang(subnettest.Create) },
			"the watch cannot begin":        func(_ *dataplanetest.Fake, store *subnettest.Memory) { store.Fail(errors.New("no"), subnettest.Watch) },
			"no interface":                  func(fake *dataplanetest.Fake, _ *subnettest.Memory) { must(t, fake.DelLink("eth0")) },
			"in a pass": func(fake *dataplanetest.Fake, _ *subnettest.Memory) {
				fake.SetFaults(dataplanetest.Faults{Rand: rand.New(rand.NewPCG(1, 2)), Pause: time.Hour})
			},
			"retrying": func(fake *dataplanetest.Fake, _ *subnettest.Memory) {
				fake.SetFaults(dataplanetest.Faults{Rand: rand.New(rand.NewPCG(1, 2)), Refuse: 1})
			},
			"steady": func(*dataplanetest.Fake, *subnettest.Memory) {},
		} {
			t.Run(backend+", "+name, func(t *testing.T) {
				file := filepath.Join(t.TempDir(), "subnet.env")
				synctest.Test(t, func(t *testing.T) {
					fake, store := dataplanetest.NewFake(), subnettest.NewMemory()
					must(t, fake.AddLink("eth0"))
					must(t, fake.SetLink("eth0", true))
					must(t, fake.AddAddr("eth0", netip.MustParsePrefix("192.168.0.2/24")))
					store.SetConfig(config)
					store.PutRaw("10.5.200.0-24", `{"PublicIP":"192.168.0.200","BackendType":"host-gw"}`, time.Hour)
					phase(fake, store)
					ctx, cancel := context.WithCancel(t.Context())
					ended := make(chan error, 1)
					go func() {
						ended <- serve(ctx, &options{subnetFile: file, renewMargin: time.Hour}, store, imagined{fake}, newCollector(&options{}))
					}()
					time.Sleep(3 * time.Second)
					synctest.Wait()
					begin := time.Now()
					cancel()
					if err := <-ended; !errors.Is(err, context.Canceled) {
						t.Errorf("it ended with %v", err)
					}
					if took := time.Since(begin); took > time.Second {
						t.Errorf("it ended after %s", took)
					}
					left, err := os.ReadDir(filepath.Dir(file))
					must(t, err)
					if len(left) > 1 || len(left) == 1 && left[0].Name() != "subnet.env" {
						t.Errorf("it left %v", left)
					}
					store.Heal()
				})
			})
		}
	}
}
