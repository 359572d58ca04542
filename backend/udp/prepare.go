package udp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"k8s.io/klog/v2"

	"flanneld/pkg/ip"
	"flanneld/pkg/state"
	"flanneld/pkg/tun"
)

// device is what flannel calls its devices, each with the lowest number that is free.
const device = "flannel"

// Prepare implements backend.Preparer. The alias of a device tells which network it is of.
func (udp) Prepare(ctx context.Context, network ip.Subnet, former []netip.Prefix) (string, error) {
	all, err := tun.List(ctx)
	if err != nil {
		return "", err
	}
	alias := state.TUNAlias(network.V4)
	for _, d := range marked(all, alias) {
		if d.Held {
			return "", fmt.Errorf("the TUN device %s of this network is in use: another daemon has it", d.Name)
		}
	}
	for _, n := range append([]netip.Prefix{network.V4}, former...) {
		for _, d := range marked(all, state.TUNAlias(n)) {
			if !d.Held {
				klog.Infof("using the TUN device %s that an earlier run left in the network %s", d.Name, n)
				return d.Name, nil
			}
		}
	}
	name, err := tun.Create(device+"%d", alias)
	if err != nil {
		return "", err
	}
	// Another daemon of this network may have made one in the same moment. Who is
	// the last to make one sees both. Who sees both gives way, and tries again.
	if all, err = tun.List(ctx); err == nil {
		if ours := marked(all, alias); len(ours) == 1 && ours[0].Name == name {
			klog.Infof("made the TUN device %s", name)
			return name, nil
		}
		err = errors.New("another daemon may be making a TUN device for this network")
	}
	return "", errors.Join(err, tun.Delete(name))
}

// marked returns the devices that have names of ours and the given alias.
func marked(all []tun.Info, alias string) []tun.Info {
	return slices.DeleteFunc(slices.Clone(all), func(d tun.Info) bool {
		return d.Alias != alias || !state.IsTUNName(d.Name)
	})
}
