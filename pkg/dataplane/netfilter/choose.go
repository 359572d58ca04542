package netfilter

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"k8s.io/klog/v2"

	"flanneld/pkg/ip"
	"flanneld/pkg/state"
)

// Mode says how the way is chosen in which rules are written.
type Mode string

// The modes.
const (
	ModeAuto     Mode = "auto"
	ModeIPTables Mode = "iptables"
	ModeNFTables Mode = "nftables"
)

// Choose returns the way in which rules of a family are to be written on this host, and why.
// said is what the network's configuration says of nftables, nil if nothing; it
// and what this host has count with ModeAuto alone.
func (t *Dataplane) Choose(ctx context.Context, f ip.Family, mode Mode, said *bool) (way state.RuleBackend, why string) {
	t.choosing.Lock()
	defer t.choosing.Unlock() // what is known of the host's programs is one map
	switch {
	case mode == ModeNFTables:
		return state.NFTables, "-masq-mode says so"
	case mode == ModeIPTables:
		way, err := t.own(ctx, f)
		if err != nil {
			// With the program comes a variant; until then this one tells what is
			// missing.
			return state.IPTablesNFT, fmt.Sprintf("-masq-mode says so, but %v", err)
		}
		return way, "-masq-mode says so"
	case said != nil && *said:
		return state.NFTables, "the network configuration says so (EnableNFTables)"
	case said != nil:
		way, err := t.own(ctx, f)
		if err != nil {
			return state.NFTables, fmt.Sprintf("the network configuration asks for iptables (EnableNFTables), but %v", err)
		}
		return way, "the network configuration says so (EnableNFTables)"
	}
	why = "no one has rules of iptables on this host"
	variants := []state.RuleBackend{state.IPTablesNFT, state.IPTablesLegacy}
	used := make(map[state.RuleBackend]string) // by others
	for _, w := range variants {
		name := wayKey{w, f}
		if t.ways[name] == nil {
			continue
		}
		what, err := t.ways[name].others(ctx)
		switch {
		case errors.Is(err, errAbsent) && w == state.IPTablesLegacy: // it has tables
			why = fmt.Sprintf("whether others have rules by %s is not known: %v", name, err)
		case err != nil && !errors.Is(err, errAbsent):
			if t.said.State("others "+name.String(), err.Error()) {
				klog.Warningf("whether others have rules by %s is not known: %v", name, err)
			}
		}
		if what != "" {
			used[w] = what
		}
	}
	if len(used) == len(variants) {
		// Docker and the like use what is called just iptables.
		if own, err := t.own(ctx, f); err == nil && own == state.IPTablesLegacy {
			slices.Reverse(variants)
		}
	}
	for _, w := range variants {
		what := used[w]
		if what == "" {
			continue
		}
		if err := t.available(ctx, wayKey{w, f}); err != nil {
			why = fmt.Sprintf("others on this host use %s (%s), but %v", wayKey{w, f}, what, err)
			continue
		}
		return w, "others on this host use it: " + what
	}
	if what, err := t.ways[wayKey{state.NFTables, f}].others(ctx); err == nil && what != "" {
		why += ", and some of nftables: " + what
	}
	return state.NFTables, why
}

// Refusing returns the ways of a family's iptables in which others have packets refused that no
// rule lets through, and what it is that does. The kernel asks all of them: what one lets through
// another may refuse.
func (t *Dataplane) Refusing(ctx context.Context, f ip.Family) map[state.RuleBackend]string {
	t.choosing.Lock()
	defer t.choosing.Unlock()
	refusing := make(map[state.RuleBackend]string)
	for name, w := range t.ways {
		w, ok := w.(interface {
			refuses(context.Context) (string, error)
		})
		if !ok || name.Family != f {
			continue
		}
		if what, err := w.refuses(ctx); err == nil && what != "" {
			refusing[name.RuleBackend] = what
		}
	}
	return refusing
}

// available returns why rules can't be written in a way, or nil.
func (t *Dataplane) available(ctx context.Context, name wayKey) error {
	if w, ok := t.ways[name].(*iptables); ok {
		return w.available(ctx)
	}
	_, err := t.ways[name].dump(ctx)
	return err
}

// own returns the variant of a family's iptables that is this host's.
func (t *Dataplane) own(ctx context.Context, f ip.Family) (state.RuleBackend, error) {
	if t.variant == nil {
		return "", fmt.Errorf("%w: %s", errAbsent, families[f].program)
	}
	return t.variant(ctx, families[f])
}
