package main

import (
	"context"
	"net/netip"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/pkg/ip"
	"flanneld/subnet"
)

// The file with what is held is kept, whatever becomes of it.
func TestStateFileIsKept(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		config, err := subnet.ParseConfig([]byte(`{"Network":"10.5.0.0/16"}`))
		must(t, err)
		own := &subnet.Lease{
			Subnet:  ip.SubnetOf(netip.MustParsePrefix("10.5.1.0/24")),
			Attrs:   subnet.Attrs{PublicIP: ip.Addrs{V4: netip.MustParseAddr("192.0.2.1")}},
			Expires: time.Now().Add(subnet.LeaseTTL),
		}
		o := &options{stateDir: dir}
		o.etcd.Prefix = "/net"
		d := &daemon{options: o, unsaved: make(chan struct{}, 1), holding: subnet.Holding{Config: config, Own: own}}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = d.save(ctx)
		}()
		poke(d.unsaved)
		for what, spoil := range map[string]func(){
			"nothing":   func() {},
			"deleted":   func() { must(t, os.Remove(o.savedFile())) },
			"truncated": func() { must(t, os.Truncate(o.savedFile(), 10)) },
		} {
			synctest.Wait()
			_, err := o.saved()
			must(t, err)
			spoil()
			began := time.Now()
			time.Sleep(saveAgain + saveRest)
			synctest.Wait()
			if s, err := o.saved(); err != nil || s.Own.Subnet != own.Subnet || s.At.Before(began) {
				t.Errorf("%s: it has %+v, %v", what, s, err)
			}
		}
		cancel()
		<-ended
	})
}
