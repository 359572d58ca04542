// Package migrate copies a network from version 2 of etcd's API to version 3, where
// the daemons go on with the same subnets.
package migrate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"flanneld/pkg/ip"
	"flanneld/pkg/printable"
	"flanneld/subnet"
	"flanneld/subnet/etcd"
)

// Source is where a network is.
type Source interface {
	// Config returns the configuration as it is written, or subnet.ErrNoConfig.
	Config(ctx context.Context) ([]byte, error)
	// Entries returns the leases as they are written.
	Entries(ctx context.Context) ([]subnet.Entry, error)
	// Guarded reports whether only users of etcd can write what the source holds.
	Guarded(ctx context.Context) (bool, error)
}

// Destination is where it is to be.
type Destination interface {
	Source
	// Import writes a key, for ttl or for ever where that is 0, unless it is there.
	// It returns nil, or what is there instead.
	Import(ctx context.Context, key, value string, ttl time.Duration) (*subnet.Entry, error)
}

// Migration copies what there is in From and not in To.
type Migration struct {
	From   Source
	To     Destination
	DryRun bool         // write nothing, and report what would be done
	Report func(string) // is called with each thing that was done or left
}

// ErrConflict is that both have a lease of one subnet, and of different hosts.
var ErrConflict = errors.New("there are subnets that are of one host in version 2 and of another in version 3")

// atOnce is how many keys are written at a time.
const atOnce = 64

// Run copies the leases, and then the configuration: until that is there, daemons
// that start stay where they are, so that none misses a lease that was not copied
// yet. It may be run again, after an error too.
func (m *Migration) Run(ctx context.Context) error {
	r := &run{Migration: m, handled: make(map[string]bool)}
	config, there, err := r.configs(ctx)
	if err != nil {
		return err
	}
	if err := r.compareGuards(ctx); err != nil {
		return err
	}
	if err := r.leases(ctx); err != nil {
		return err
	}
	if r.conflicts == 0 && !there {
		if err := r.config(ctx, config); err != nil {
			return err
		}
		there = true
	}
	// Hosts may have joined meanwhile.
	if err := r.leases(ctx); err != nil {
		return err
	}
	r.summarize()
	switch {
	case r.conflicts == 0:
		return nil
	case !there:
		return fmt.Errorf("%w; the configuration is not copied until that is put right, so that daemons stay in version 2: "+
			"of each two leases delete the wrong one, and run this again", ErrConflict)
	}
	return fmt.Errorf("%w: of each two leases delete the wrong one, and run this again", ErrConflict)
}

// run is one go.
type run struct {
	*Migration
	handled map[string]bool // keys that were dealt with
	// doubtful: anyone can have written what is copied to where only users can write.
	doubtful bool

	copied, there, conflicts, unusable int

	ends time.Time // of the copy that ends first
}

// configs reads the configuration, and whether it is there already.
func (r *run) configs(ctx context.Context) (config []byte, there bool, err error) {
	config, err = r.From.Config(ctx)
	switch {
	case errors.Is(err, subnet.ErrNoConfig):
		return nil, false, fmt.Errorf("there is nothing to migrate in version 2 of etcd's API: %w", err)
	case err != nil:
		return nil, false, fmt.Errorf("in version 2 of etcd's API: %w", err)
	}
	if _, err := subnet.ParseConfig(config); err != nil {
		return nil, false, fmt.Errorf("in version 2 of etcd's API: %w; correct it first", err)
	}
	other, err := r.To.Config(ctx)
	switch {
	case errors.Is(err, subnet.ErrNoConfig):
		return config, false, nil
	case err != nil:
		return nil, false, fmt.Errorf("in version 3 of etcd's API: %w", err)
	}
	return config, true, compare(config, other)
}

// compareGuards tells who may have written what is copied, and who may write the copy.
func (r *run) compareGuards(ctx context.Context) error {
	from, err := r.From.Guarded(ctx)
	if err != nil {
		return fmt.Errorf("asking whether version 2 of etcd's API has users: %w", err)
	}
	to, err := r.To.Guarded(ctx)
	if err != nil {
		return fmt.Errorf("asking whether version 3 of etcd's API has users: %w", err)
	}
	switch {
	case to && !from:
		r.doubtful = true
		r.Report("version 2 is open, and version 3 has users: anyone who reaches etcd may have written each of the following; delete what no host of yours wrote")
	case from && !to:
		r.Report("version 2 has users, and version 3 is open: daemons with -etcd-api=auto stay in version 2 until version 3 has users, too")
	}
	return nil
}

func compare(config, other []byte) error {
	if etcd.SameConfig(config, other) {
		return nil
	}
	return fmt.Errorf("the network configuration is %.200q in version 2 of etcd's API and %.200q in version 3: delete or correct the wrong one, and run this again", config, other)
}

func (r *run) config(ctx context.Context, config []byte) error {
	if !r.DryRun {
		there, err := r.To.Import(context.WithoutCancel(ctx), "config", string(config), 0)
		if err != nil {
			return fmt.Errorf("in version 3 of etcd's API: %w", err)
		}
		if there != nil {
			return compare(config, []byte(there.Value))
		}
	}
	text := "the network's configuration"
	if r.doubtful {
		text += fmt.Sprintf(" %q", config)
	}
	r.copies(text)
	return nil
}

// lease is one that is to be copied.
type lease struct {
	subnet.Entry
	sub   ip.Subnet
	attrs subnet.Attrs

	there *subnet.Entry // what was found in its place
}

// leases copies those that were not dealt with yet.
func (r *run) leases(ctx context.Context) error {
	from, err := r.From.Entries(ctx)
	if err != nil {
		return fmt.Errorf("in version 2 of etcd's API: %w", err)
	}
	to, err := r.To.Entries(ctx)
	if err != nil {
		return fmt.Errorf("in version 3 of etcd's API: %w", err)
	}
	there := make(map[string]*subnet.Entry, len(to))
	for i := range to {
		there[to[i].Key] = &to[i]
	}
	var all []*lease
	for _, e := range from {
		if r.handled[e.Key] {
			continue
		}
		l, err := parse(e)
		if err != nil {
			r.handled[e.Key] = true
			r.unusable++
			r.Report(fmt.Sprintf("left %s, which cannot be used: %v", printable.Name(e.Key), err))
			continue
		}
		l.there = there[e.Key]
		all = append(all, l)
	}
	slices.SortFunc(all, func(a, b *lease) int { return a.sub.Compare(b.sub) })
	for some := range slices.Chunk(all, atOnce) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := r.some(ctx, some); err != nil {
			return err
		}
	}
	return nil
}

func parse(e subnet.Entry) (*lease, error) {
	sub, err := ip.ParseKey(e.Key)
	if err != nil {
		return nil, err
	}
	attrs, err := subnet.ParseAttrs(sub, e.Value)
	return &lease{Entry: e, sub: sub, attrs: attrs}, err
}

// some copies leases at the same time. What was begun is done, also when ctx ends:
// else etcd leases without a key would be left.
func (r *run) some(ctx context.Context, all []*lease) error {
	var g errgroup.Group
	done := make([]bool, len(all))
	for i, l := range all {
		if l.there != nil || r.DryRun {
			done[i] = true
			continue
		}
		g.Go(func() (err error) {
			l.there, err = l.copy(context.WithoutCancel(ctx), r.To)
			done[i] = err == nil
			return err
		})
	}
	err := g.Wait()
	for i, l := range all {
		if done[i] {
			r.handled[l.Key] = true
			r.report(l)
		}
	}
	return err
}

func (l *lease) copy(ctx context.Context, to Destination) (*subnet.Entry, error) {
	var ttl time.Duration
	if !l.Expires.IsZero() {
		ttl = max(time.Until(l.Expires), 1) // 0 would be for ever
	}
	there, err := to.Import(ctx, "subnets/"+l.Key, l.Value, ttl)
	if err != nil {
		return nil, fmt.Errorf("in version 3 of etcd's API: %w", err)
	}
	return there, nil
}

// report says what became of a lease.
func (r *run) report(l *lease) {
	of := fmt.Sprintf("%s of %s", l.sub, l.attrs.PublicIP)
	if r.doubtful {
		of += " (" + machine(l.attrs) + ")"
	}
	who, same := l.holder()
	switch {
	case l.there == nil && l.reserved():
		r.copied++
		r.copies("reservation " + of)
	case l.there == nil:
		r.copied++
		if r.ends.IsZero() || l.Expires.Before(r.ends) {
			r.ends = l.Expires
		}
		r.copies(fmt.Sprintf("lease %s, %s left", of, short(time.Until(l.Expires))))
	case !same:
		r.conflicts++
		r.Report(fmt.Sprintf("conflict: version 2 has %s, and version 3 has it of %s; left alone", of, who))
	default:
		r.there++
		if l.reserved() && !l.there.Expires.IsZero() {
			r.Report(fmt.Sprintf("left reservation %s: version 3 has it with an end; write it there without one to reserve it", of))
		}
	}
}

// machine is who wrote a lease, by what it says.
func machine(a subnet.Attrs) string {
	if a.Machine == "" {
		return "no machine named"
	}
	return printable.Name(a.Machine)
}

func (l *lease) reserved() bool { return l.Expires.IsZero() }

// holder returns whose the lease is that was found in place of l, and whether that
// is the same host: its daemon may have written it anew.
func (l *lease) holder() (who string, same bool) {
	if l.there == nil {
		return "", false
	}
	attrs, err := subnet.ParseAttrs(l.sub, l.there.Value)
	if err != nil {
		return fmt.Sprintf("nobody that can be told: %v", err), false
	}
	return attrs.PublicIP.String(), attrs.PublicIP.Matches(l.attrs.PublicIP)
}

// copies tells of something that is copied.
func (r *run) copies(what string) {
	if r.DryRun {
		r.Report("would copy " + what)
		return
	}
	r.Report("copied " + what)
}

func (r *run) summarize() {
	text := fmt.Sprintf("leases: %d copied", r.copied)
	if r.DryRun {
		text = fmt.Sprintf("leases: %d to copy", r.copied)
	}
	for _, part := range []struct {
		n    int
		text string
	}{{r.there, "in version 3 already"}, {r.conflicts, "in conflict"}, {r.unusable, "not usable"}} {
		if part.n > 0 {
			text += fmt.Sprintf(", %d %s", part.n, part.text)
		}
	}
	r.Report(text)
	if !r.ends.IsZero() && !r.DryRun && r.conflicts == 0 {
		r.Report(fmt.Sprintf("restart all daemons within %s: then the first of the copies ends", short(time.Until(r.ends))))
	}
}

// short is a duration in hours and minutes, or in seconds if it is less than one.
func short(d time.Duration) string {
	d = max(d, 0)
	if d < time.Minute {
		return (d - d%time.Second).String()
	}
	text := (d - d%time.Minute).String()
	return text[:len(text)-len("0s")]
}
