package main

import (
	"context"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/pkg/ip"
	"flanneld/subnet"
)

// Each prefix has a file of its own, and the usual one has the name that it always had.
func TestStateFileNames(t *testing.T) {
	if name := savedName("/coreos.com/network"); name != "coreos.com_network.json" {
		t.Errorf("the usual name is %s", name)
	}
	long := strings.Repeat("/long", 100)
	seen := make(map[string]string)
	for _, prefix := range []string{
		"/", "/a/b", "/a_b", "/a%b", "/a%5Fb", "/a__b", "/a/_b", "/a_/b", "/a%", "a", "/a", "a%", "a/b", "a_b", "/a/b%", long, long + "x", long[1:],
	} {
		name := savedName(prefix)
		if other, taken := seen[name]; taken || strings.Contains(name, "/") || len(name) > 255 {
			t.Errorf("%q has the file %q, as has %q", prefix, name, other)
		}
		seen[name] = prefix
	}
	for _, same := range [][2]string{{"/a/b", "/a/b/"}, {"/a/b", "/a//b"}, {"a", "a/"}} {
		var o [2]options
		for i := range o {
			o[i].stateDir, o[i].etcd.Prefix = "/dir", same[i]
		}
		if o[0].savedFile() != o[1].savedFile() || o[0].savedStore() != o[1].savedStore() {
			t.Errorf("%q has %s, and %q %s", same[0], o[0].savedFile(), same[1], o[1].savedFile())
		}
	}
}

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
		s := newSaver(o)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = s.Run(ctx)
		}()
		s.set(subnet.Holding{Config: config, Own: own}, nil)
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
