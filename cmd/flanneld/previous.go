package main

import (
	"context"

	"k8s.io/klog/v2"

	"flanneld/network"
	"flanneld/pkg/ip"
)

// previous returns what this host had when a daemon last ran here, as subnet.env says. The
// subnet is also in the state file, which outlives a restart of the host.
func (o *options) previous() network.Env {
	e, err := network.ReadEnv(o.subnetFile)
	if err != nil {
		klog.Warning(err)
	}
	if !e.Subnet.IsValid() && o.stateDir != "" {
		if s, err := o.saved(); err == nil {
			e.Subnet = s.Own.Subnet
		}
	}
	return e
}

// previousIP returns the public address that this host had with a subnet, as far as a
// VXLAN device tells: flannel keeps it nowhere else.
func previousIP(ctx context.Context, machine host, had ip.Subnet) ip.Addrs {
	ifaces, err := machine.Interfaces(ctx)
	if err != nil {
		return ip.Addrs{}
	}
	for _, i := range ifaces {
		for _, a := range i.Addrs {
			if i.Local.IsValid() && had.V4.IsValid() && had.V4.Contains(a.Prefix.Addr()) {
				return ip.Addrs{V4: i.Local}
			}
		}
	}
	return ip.Addrs{}
}
