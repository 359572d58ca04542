package main

import (
	"context"

	"k8s.io/klog/v2"

	"flanneld/network"
	"flanneld/pkg/target"
	"flanneld/pkg/target/masq"
	"flanneld/subnet"
)

// withRules is the machine, some parts, and the rules for packets.
func withRules(o *options, machine host, parts ...target.Part) target.Target {
	if o.rules != nil {
		parts = append(parts, target.Part{Target: o.rules, Kinds: masq.Kinds()})
	}
	return target.Mux{Rest: machine, Parts: parts}
}

// chooseRules returns the rules for packets that the options ask for, in the way
// that goes with a configuration and with this host. The keeper alone calls it.
func (d *daemon) chooseRules(ctx context.Context, c *subnet.Config) network.Rules {
	o := d.options
	r := network.Rules{Masquerade: o.ipMasq, Forward: o.forwardRules, RandomFully: o.ipMasq && o.fullyRandom}
	if o.rules == nil || !r.Masquerade && !r.Forward {
		return network.Rules{}
	}
	var why string
	r.Way, why = o.rules.Choose(ctx, masq.Mode(o.masqMode), c.NFTables)
	d.mu.Lock()
	defer d.mu.Unlock()
	if r != d.rules {
		klog.Infof("rules for packets are written by %s: %s", r.Way, why)
	}
	return r
}
