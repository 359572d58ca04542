package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"k8s.io/klog/v2"

	"flanneld/network"
	"flanneld/pkg/dataplane/netfilter"
	"flanneld/pkg/once"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

// chooseRules returns the rules for packets that the options ask for, in the ways that go
// with a configuration and with this host. before is what was chosen last; with keep, what
// others by iptables were the reason for stays, as they may be about to be started again.
func (d *daemon) chooseRules(ctx context.Context, c *subnet.Config, before network.Rules, keep bool) network.Rules {
	o := d.options
	r := network.Rules{Masquerade: o.ipMasq, Forward: o.forwardRules, RandomFully: o.ipMasq && o.fullyRandom}
	if o.rules == nil || !r.Masquerade && !r.Forward {
		return network.Rules{}
	}
	if r.Backend = before.Backend; !keep || r.Backend == "" || r.Backend == state.NFTables {
		var why string
		if r.Backend, why = o.rules.Choose(ctx, netfilter.Mode(o.masqMode), c.NFTables); r.Backend != before.Backend {
			text := fmt.Sprintf("rules for packets are written by %s: %s", r.Backend, why)
			d.mu.Lock()
			said := d.saidWay
			d.saidWay = text
			d.mu.Unlock()
			if text != said && d.notices.Event(text) {
				klog.Info(text)
			}
		}
	}
	if !r.Forward {
		return r
	}
	refusing := o.rules.Refusing(ctx)
	for _, way := range []state.RuleBackend{state.IPTablesNFT, state.IPTablesLegacy} {
		had := before.Backend == way || slices.Contains(before.ForwardAlso, way)
		what := refusing[way]
		if way == r.Backend || what == "" && (!keep || !had) {
			continue
		}
		r.ForwardAlso = append(r.ForwardAlso, way)
		if !had {
			if text := fmt.Sprintf("pods' packets are let through by %s, too: %s", way, what); d.notices.Event(text) {
				klog.Info(text)
			}
		}
	}
	return r
}

// rulesPause lets someone who sets up rules of iptables, such as docker, come to an
// end.
const rulesPause = time.Second

// followRules goes over to iptables when others on this host begin to use it, and lets
// packets through wherever they begin to refuse them: what they drop, only rules in the
// same tables let through.
func (d *daemon) followRules(ctx context.Context) error {
	if d.options.rules == nil {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-d.reconciler.Ready():
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-d.options.rules.Touched():
		}
		once.Wake(d.filters)
		if err := once.Sleep(ctx, rulesPause); err != nil {
			return err
		}
		d.mu.Lock()
		c, before := d.holding.Config, d.rules
		d.mu.Unlock()
		if c == nil {
			continue
		}
		now := d.chooseRules(ctx, c, before, true)
		d.mu.Lock()
		if d.prepared.config == c && !now.Equal(before) && ctx.Err() == nil {
			d.prepared.rules, d.rules = now, now
			d.updateDesired()
		}
		d.mu.Unlock()
	}
}
