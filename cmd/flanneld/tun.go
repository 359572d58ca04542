package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"k8s.io/klog/v2"

	"flanneld/backend"
	"flanneld/pkg/dataplane/kernel"
	"flanneld/pkg/dataplane/tunnels"
	"flanneld/pkg/state"
	"flanneld/pkg/tun"
	"flanneld/subnet"
)

// tunDevice returns the name of this host's TUN device; empty if the backend has
// none. It is the one that an earlier run left, which its alias tells, else a new
// one. The keeper alone calls it.
func (d *daemon) tunDevice(ctx context.Context, c *subnet.Config, b backend.Backend, ifaces []kernel.Interface) (string, error) {
	d.mu.Lock()
	has, networks := d.host.TUN, d.networks
	d.mu.Unlock()
	pattern := b.Device()
	if !strings.Contains(pattern, "%d") || has != "" {
		return has, nil
	}
	network := c.Network().V4
	alias := state.TUNAlias(network)
	for _, i := range marked(ifaces, pattern, alias) {
		if i.Held {
			return "", fmt.Errorf("the TUN device %s of this network is in use: another daemon has it", i.Name)
		}
	}
	for _, n := range append([]netip.Prefix{network}, networks...) {
		for _, i := range marked(ifaces, pattern, state.TUNAlias(n)) {
			if !i.Held {
				klog.Infof("using the TUN device %s that an earlier run left in the network %s", i.Name, n)
				return i.Name, nil
			}
		}
	}
	name, err := tun.Create(pattern, alias)
	if err != nil {
		return "", err
	}
	// Another daemon of this network may have made one in the same moment. Who is
	// the last to make one sees both. Who sees both gives way, and tries again.
	if ifaces, err = d.machine.Interfaces(ctx); err == nil {
		if all := marked(ifaces, pattern, alias); len(all) == 1 && all[0].Name == name {
			klog.Infof("made the TUN device %s", name)
			return name, nil
		}
		err = errors.New("another daemon may be making a TUN device for this network")
	}
	return "", errors.Join(err, tun.Delete(name))
}

// marked returns the TUN devices with names of the pattern and the given alias.
func marked(ifaces []kernel.Interface, pattern, alias string) []kernel.Interface {
	prefix := strings.TrimSuffix(pattern, "%d")
	return slices.DeleteFunc(slices.Clone(ifaces), func(i kernel.Interface) bool {
		number, ok := strings.CutPrefix(i.Name, prefix)
		_, err := strconv.ParseUint(number, 10, 31)
		return !i.TUN || i.Alias != alias || !ok || err != nil
	})
}

// logCounters logs what the tunnelPlane have counted whenever it is asked for.
func logCounters(ctx context.Context, tunnelPlane *tunnels.Dataplane, asked <-chan os.Signal) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-asked:
			for _, text := range tunnelPlane.Counters() {
				klog.Infof("counted by the tunnel of %s", text)
			}
		}
	}
}
