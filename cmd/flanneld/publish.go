package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"flanneld/backend"
	"flanneld/network"
	"flanneld/pkg/cni"
	"flanneld/pkg/file"
	"flanneld/pkg/ip"
	"flanneld/pkg/notice"
	"flanneld/pkg/once"
	"flanneld/pkg/status"
	"flanneld/subnet"
)

// recheck is how often subnet.env is looked at: it is gone after someone cleared
// /run, say.
const recheck = 10 * time.Second

// publisher writes subnet.env, and the configuration of CNI if there is to be one, once the
// host is as it should be, tells systemd, and keeps all right from then on.
type publisher struct {
	file      string
	ipMasq    bool
	cni       *cni.Conf       // nil for none
	ready     <-chan struct{} // closed once the host is as it should be
	systemd   *systemd
	obstacles *network.Obstacles
	changed   chan struct{}
	published chan struct{} // closed once subnet.env is in place
	log       notice.Log

	mu      sync.Mutex
	inPlace bool // subnet.env
	facts
}

func newPublisher(o *options, ready <-chan struct{}, s *systemd, obstacles *network.Obstacles) *publisher {
	p := &publisher{file: o.subnetFile, ipMasq: o.ipMasq, ready: ready, systemd: s, obstacles: obstacles, changed: make(chan struct{}, 1), published: make(chan struct{}), facts: facts{store: o.source().name, unseen: make(map[ip.Family]error)}}
	if o.cniFile != "" {
		p.cni = cni.New(o.cniFile, o.cniTemplate)
	}
	obstacles.Changed = func() { once.Wake(p.changed) }
	return p
}

// facts are what is published.
type facts struct {
	holding subnet.Holding
	backend backend.Backend
	host    backend.Host
	// configurations counts those that came into force.
	configurations int
	peers          int
	leases         []*subnet.Lease   // of the others, that are used
	problematic    int               // leases of the others that cannot be used, in some family
	unfit          []subnet.Problem  // why not
	leaving        []subnet.Vanished // that are among leases still
	unreached      *status.Problem   // to which of the others packets do not get; nil for nothing
	reconciled     network.Status
	unseen         map[ip.Family]error // why the external interface cannot be followed
	storeDown      time.Time           // since when the store cannot be used; zero if it can
	storeFailed    error               // why
	storeSince     time.Time           // since when it can, if it can
	outages        int                 // how often it could not
	storeTakes     time.Duration       // for an answer, where that is too long; else 0
	store          string              // what messages call it
}

// update changes what is published.
func (p *publisher) update(change func(*facts)) {
	p.mu.Lock()
	change(&p.facts)
	p.mu.Unlock()
	once.Wake(p.changed)
}

func (p *publisher) now() facts {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.facts
}

// How much is allocated until memory is collected, in percent of what is in use.
const (
	gcAtStart = 200
	gcLater   = 50
)

// Run publishes until ctx ends.
func (p *publisher) Run(ctx context.Context) error {
	// Until then nearly all that is allocated stays; later it is little, and nearly all of it goes.
	usual := debug.SetGCPercent(gcAtStart)
	err := p.awaitReady(ctx)
	debug.SetGCPercent(min(usual, gcLater))
	if err != nil {
		return err
	}
	var said string
	first := true
	tick := time.NewTicker(recheck)
	if p.cni != nil {
		tick.Reset(cni.Recheck)
	}
	defer tick.Stop()
	for {
		now := p.now()
		env := now.env(p.ipMasq)
		changed, err := env.Write(p.file)
		p.noteFile(err)
		if p.cni != nil && (err == nil || !first) {
			if file.IsRemoved(filepath.Dir(p.cni.Path)) {
				return fmt.Errorf("writing %s: %w", p.cni.Path, errNoFolder)
			}
			p.obstacles.Report("CNI", p.configureCNI(env, now.host.First().Iface))
		}
		if err != nil {
			if err.Error() != said {
				said = err.Error()
				what := "not ready"
				if !first {
					what = "what it says is out of date"
				}
				klog.Errorf("%s, trying again: %v", what, err)
			} else if !first && folderLost(p.file, err) {
				return fmt.Errorf("%w: %w", err, errNoFolder)
			}
			p.systemd.status(said)
			if err := once.Sleep(ctx, retryPause); err != nil {
				return err
			}
			continue
		}
		if changed {
			klog.Infof("wrote %s: %s", p.file, strings.Join(strings.Fields(env.String()), " "))
		}
		p.systemd.ready(now.text(p.obstacles.Reported()))
		if first {
			close(p.published)
			returnMemory()
		}
		first, said = false, ""
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.changed:
		case <-tick.C:
		}
	}
}

// noteFile takes why subnet.env could not be put in place, or nil if it was.
func (p *publisher) noteFile(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inPlace = err == nil
}

// written reports whether subnet.env is in place, as far as is known.
func (p *publisher) written() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.inPlace
}

// putAsideCNI keeps the container runtime from making pods by what the file said before the host
// was booted: there is no network yet. While the host runs the file stays, whatever becomes of
// daemons.
func putAsideCNI(path string) {
	done, err := cni.PutAside(path)
	switch {
	case err != nil:
		klog.Warningf("pods may be made before there is a network: %s: %v", path, err)
	case done:
		klog.Infof("put %s aside, which is from before this host was booted, until there is a network", path)
	}
}

// configureCNI has the file say the same as subnet.env, and returns what keeps pods from
// getting their network by it.
func (p *publisher) configureCNI(env network.Env, iface string) []network.Obstacle {
	changed, err := p.cni.Write(cni.Values{Network: env.Network, Subnet: env.Subnet, MTU: env.MTU, IPMasq: env.IPMasq, Iface: iface})
	if err != nil {
		return []network.Obstacle{{Kind: network.OnPods, Subject: p.cni.Path, Problem: err.Error()}}
	}
	if text := fmt.Sprintf("wrote %s: subnet %s, MTU %d", p.cni.Path, env.Subnet, env.MTU); changed && p.log.Event(text) {
		klog.Info(text)
	}
	var obstacles []network.Obstacle
	for _, problem := range p.cni.Problems() {
		obstacles = append(obstacles, network.Obstacle{Kind: network.OnPods, Subject: problem.Subject, Problem: problem.Problem, Remedy: problem.Remedy})
	}
	return obstacles
}

var errNoFolder = errors.New("its folder was removed, and whoever starts this daemon has to make it")

// folderLost reports whether a file cannot be written because its folder was removed
// where this process cannot make it again: a unit or a container is given one by whoever
// starts it, and sees no other one.
func folderLost(file string, err error) bool {
	if errors.Is(err, fs.ErrNotExist) {
		return true // it is there without a name
	}
	_, missing := os.Stat(filepath.Dir(file))
	return errors.Is(err, unix.EROFS) && errors.Is(missing, fs.ErrNotExist)
}

// awaitReady waits until the host is as it should be, and tells systemd why it is
// not, once there is a subnet to tell of.
func (p *publisher) awaitReady(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.ready:
			return nil
		case <-p.changed:
			if now := p.now(); now.holding.Own != nil {
				p.systemd.status(notReady + now.text(p.obstacles.Reported()))
			}
		}
	}
}

// noteStore takes why the store cannot be used, or nil if it can.
func (f *facts) noteStore(why error) {
	if f.storeFailed = why; why == nil {
		if !f.storeDown.IsZero() {
			f.storeDown, f.storeSince = time.Time{}, time.Now()
		}
	} else if f.storeDown.IsZero() {
		f.storeDown = time.Now()
		f.outages++
	}
}

// unusable returns how many leases cannot be used.
func (f *facts) unusable() int { return f.problematic + f.reconciled.Unusable }

// env is what subnet.env should say. Its MTU is that of the devices as they are, not as
// they are about to be; nor has it an address family that this host does not carry yet.
func (f *facts) env(ipMasq bool) network.Env {
	e := network.Env{
		Network: f.holding.Config.Network(),
		Subnet:  f.holding.Own.Subnet,
		MTU:     f.backend.MTU(f.reconciled.Host),
		IPMasq:  ipMasq,
	}
	for _, family := range ip.Families {
		if f.reconciled.Host.Of(family).Iface == "" {
			e.Network, e.Subnet = e.Network.With(family, netip.Prefix{}), e.Subnet.With(family, netip.Prefix{})
		}
	}
	return e
}

// text says how things are, in one line.
func (f *facts) text(obstacles []network.Obstacle) string {
	return fmt.Sprintf("subnet %s on %s (%s), backend %s, %d peers", f.holding.Own.Subnet, strings.Join(f.host.Ifaces(), " and "), f.holding.Own.PublicIP, f.holding.Config.BackendType, f.peers) +
		status.Line(f.problems(obstacles))
}

// problems are all that is not as it should be.
func (f *facts) problems(obstacles []network.Obstacle) []status.Problem {
	var problems []status.Problem
	add := func(c status.Component, format string, a ...any) {
		problems = append(problems, status.Problem{Component: c, Text: fmt.Sprintf(format, a...)})
	}
	if f.holding.Holder != "" {
		add(status.ComponentLease, "this subnet now belongs to %s and no other one could be had yet", f.holding.Holder)
	}
	if why := f.holding.Unfollowed; why != "" {
		add(status.ComponentConfiguration, "not followed: %s", why)
	}
	if why := f.holding.Unsaid; why != "" {
		add(status.ComponentLease, "the lease cannot say what it should: %s", why)
	}
	if f.reconciled.Missing > 0 {
		add(status.ComponentDataplane, "%d of %d objects not in place", f.reconciled.Missing, f.reconciled.Wanted)
	}
	if why := f.reconciled.Unread; why != "" {
		add(status.ComponentDataplane, "what is in place is not known, and nothing is changed: %s", why)
	}
	if n := f.unusable(); n > 0 {
		add(status.ComponentPeers, "%d leases unusable", n)
	}
	if f.unreached != nil {
		problem := *f.unreached
		if slices.ContainsFunc(obstacles, func(o network.Obstacle) bool { return o.Kind != network.OnPods }) {
			problem.Text += "; first mend what is in the way of packets on this host"
		}
		problems = append(problems, problem)
	}
	down := make(map[string]bool)
	for _, family := range ip.Families {
		u := f.host.Of(family)
		if u.Iface == "" {
			continue
		}
		if !u.Up && !down[u.Iface] {
			down[u.Iface] = true
			add(status.ComponentInterface, "%s is down", u.Iface)
		}
		if err := f.unseen[family]; err != nil {
			add(status.ComponentInterface, "%v", err)
		}
	}
	for _, o := range obstacles {
		problems = append(problems, status.Problem{Component: status.ComponentPackets, Subject: o.Subject, Text: o.Problem, Remedy: o.Remedy})
	}
	if !f.storeDown.IsZero() {
		text := f.store + " cannot be used since " + f.storeDown.Format(time.TimeOnly)
		if f.storeFailed != nil {
			text += ": " + f.storeFailed.Error()
		}
		add(status.ComponentStore, "%s", text)
	} else if f.storeTakes > 0 {
		add(status.ComponentStore, "%s takes %s to answer: %s", f.store, f.storeTakes.Round(time.Second/10), subnet.SlowRemedy)
	}
	return problems
}
