package main

import (
	"context"
	"errors"

	"k8s.io/klog/v2"

	"flanneld/network"
	"flanneld/pkg/ip"
	"flanneld/subnet"
)

// previous returns what this host had when a daemon last ran here, as subnet.env says. The
// subnet is also in the state file, which outlives a restart of the host.
func (o *options) previous() network.Env {
	e, err := network.ReadEnv(o.subnetFile)
	if err != nil {
		klog.Warning(err)
	}
	if !e.Subnet.IsValid() && o.stateDir != "" {
		switch s, err := o.saved(); {
		case err == nil:
			e.Subnet = s.Own.Subnet
		case errors.Is(err, subnet.ErrUnread):
			klog.Warningf("going on without the subnet that this host had: %v", err)
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
	var public ip.Addrs
	for _, i := range ifaces {
		for _, a := range i.Addrs {
			if f := ip.FamilyOf(a.Prefix.Addr()); i.Local.IsValid() && ip.FamilyOf(i.Local) == f && had.Of(f).Contains(a.Prefix.Addr()) {
				public = public.With(f, i.Local)
			}
		}
	}
	return public
}
