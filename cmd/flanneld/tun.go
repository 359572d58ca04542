package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"k8s.io/klog/v2"

	"flanneld/backend"
	"flanneld/pkg/target/kernel"
	"flanneld/pkg/target/tunnel"
	"flanneld/pkg/tun"
	"flanneld/subnet"
)

// tunDevice returns the name of this host's TUN device; empty if the backend has
// none. It is the one that an earlier run left, else the lowest number that is
// free. The caller holds d.mu.
func (d *daemon) tunDevice(c *subnet.Config, b backend.Backend, ifaces []kernel.Interface) (string, error) {
	prefix, ok := strings.CutSuffix(b.Device(), "%d")
	if !ok || d.host.TUN != "" {
		return d.host.TUN, nil
	}
	networks := append(slices.Clone(d.networks), c.Network().Prefixes()...)
	taken := make(map[string]bool)
	for _, i := range ifaces {
		taken[i.Name] = true
		number, ok := strings.CutPrefix(i.Name, prefix)
		if _, err := strconv.ParseUint(number, 10, 16); !ok || err != nil {
			continue
		}
		theirs := slices.ContainsFunc(i.Addrs, func(a kernel.Address) bool {
			return a.Prefix.Addr().Is4() && !slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(a.Prefix.Addr()) })
		})
		if !theirs && tun.Free(i.Name) {
			klog.Infof("using the TUN device %s that an earlier run left", i.Name)
			return i.Name, nil
		}
	}
	for n := range 1 << 16 {
		if name := fmt.Sprint(prefix, n); !taken[name] {
			return name, nil
		}
	}
	return "", fmt.Errorf("no name of a TUN device like %s is free", b.Device())
}

// logCounters logs what the tunnels have counted whenever it is asked for.
func logCounters(ctx context.Context, tunnels *tunnel.Target, asked <-chan os.Signal) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-asked:
			for _, text := range tunnels.Counters() {
				klog.Infof("counted by the tunnel of %s", text)
			}
		}
	}
}
