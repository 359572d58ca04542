package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"

	"flanneld/network"
	"flanneld/pkg/dataplane/netfilter"
	"flanneld/pkg/ip"
	"flanneld/pkg/notice"
	"flanneld/pkg/once"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

// rules chooses the rules for packets that the options ask for, in the ways that go with a
// configuration and with this host.
type rules struct {
	plane *netfilter.Dataplane // nil if rules are to be left alone
	mode  netfilter.Mode
	want  network.Rules // but for the ways
	// touched is called when others changed rules.
	touched func()
	again   chan struct{} // the choice is to be made anew
	log     notice.Log
	said    atomic.Pointer[string] // by which way they are written, and why, as it was logged
}

func newRules(o *options) *rules {
	return &rules{plane: o.rules, mode: netfilter.Mode(o.masqMode), again: make(chan struct{}, 1), want: network.Rules{
		Masquerade: o.ipMasq, Forward: o.forwardRules, RandomFully: o.ipMasq && o.fullyRandom,
	}}
}

// chosen reports whether the ways are known for all families of a configuration.
func (r *rules) chosen(c *subnet.Config, is network.Rules) bool {
	return r.plane == nil || !r.want.Masquerade && !r.want.Forward ||
		!slices.ContainsFunc(c.Network().Families(), func(f ip.Family) bool { return is.Of(f).Backend == "" })
}

// choose returns the rules for a configuration. before is what was chosen last; with keep,
// what others by iptables were the reason for stays, as they may be about to be started
// again.
func (r *rules) choose(ctx context.Context, c *subnet.Config, before network.Rules, keep bool) network.Rules {
	now := r.want
	if r.plane == nil || !now.Masquerade && !now.Forward {
		return network.Rules{}
	}
	families := c.Network().Families()
	why := make(map[ip.Family]string)
	for _, f := range families {
		ways, was := now.Of(f), before.Of(f)
		if ways.Backend = was.Backend; !keep || ways.Backend == "" || ways.Backend == state.NFTables {
			var because string
			if ways.Backend, because = r.plane.Choose(ctx, f, r.mode, c.NFTables); ways.Backend != was.Backend {
				why[f] = fmt.Sprintf(" are written by %s: %s", ways.Backend, because)
			}
		}
		if now.Forward {
			ways.ForwardAlso = r.forwardAlso(ctx, f, ways.Backend, was, keep)
		}
	}
	var texts []string
	for _, f := range families {
		switch {
		case why[f] == "":
		case len(families) == 1, why[ip.V4] == why[ip.V6]:
			texts = []string{"rules for packets" + why[f]}
		default:
			texts = append(texts, fmt.Sprintf("rules for %s packets%s", f, why[f]))
		}
	}
	if text := strings.Join(texts, ", "); text != "" {
		if said := r.said.Swap(&text); (said == nil || *said != text) && r.log.Event(text) {
			klog.Info(text)
		}
	}
	return now
}

// forwardAlso returns the other ways in which packets of a family are to be let through.
func (r *rules) forwardAlso(ctx context.Context, f ip.Family, backend state.RuleBackend, before *network.Ways, keep bool) (also []state.RuleBackend) {
	refusing := r.plane.Refusing(ctx, f)
	for _, way := range []state.RuleBackend{state.IPTablesNFT, state.IPTablesLegacy} {
		had := before.Backend == way || slices.Contains(before.ForwardAlso, way)
		what := refusing[way]
		if way == backend || what == "" && (!keep || !had) {
			continue
		}
		also = append(also, way)
		if !had {
			whose := "pods'"
			if f == ip.V6 {
				whose += " " + f.String()
			}
			if text := fmt.Sprintf("%s packets are let through by %s, too: %s", whose, way, what); r.log.Event(text) {
				klog.Info(text)
			}
		}
	}
	return also
}

// await waits until ready is closed.
func await(ctx context.Context, ready <-chan struct{}) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-ready:
		return nil
	}
}

// rulesPause lets someone who sets up rules of iptables, such as docker, come to an
// end.
const rulesPause = time.Second

// follow goes over to iptables when others on this host begin to use it, and lets packets
// through wherever they begin to refuse them: what they drop, only rules in the same tables
// let through: settled is called a moment after they changed rules, once the host is ready.
// It is also called, and nothing kept, when the configuration changed, or this host: the
// programs of iptables, which may hang, are waited for here and nowhere else.
func (r *rules) follow(ctx context.Context, ready <-chan struct{}, settled func(_ context.Context, keep bool)) error {
	var touched <-chan struct{}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ready:
			ready, touched = nil, r.plane.Touched()
		case <-r.again:
			settled(ctx, false)
		case <-touched:
			r.touched()
			if err := once.Sleep(ctx, rulesPause); err != nil {
				return err
			}
			settled(ctx, true)
		}
	}
}
