// Package tunnels holds tunnels through user space, and tells them where their
// peers are: a dataplane beside the kernel.
package tunnels

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/notice"
	"flanneld/pkg/state"
	"flanneld/pkg/udptunnel"
)

// Kinds are the kinds of objects that are held here.
func Kinds() []state.Kind { return []state.Kind{state.KindTunnel, state.KindTunnelPeer} }

// Dataplane holds the tunnels of this process. They end with Close.
type Dataplane struct {
	mu      sync.Mutex
	tunnels map[string]*running   // by device
	emit    func(dataplane.Event) // of the watch, nil if there is none
	said    notice.Log
}

var _ dataplane.Dataplane = (*Dataplane)(nil)

// running is a tunnel, at work once it has begun.
type running struct {
	is     state.Tunnel
	index  int // of its device
	tunnel *udptunnel.Tunnel
	before udptunnel.Counters // of those in whose place it came
	begun  bool
	stop   context.CancelFunc
	done   chan struct{} // closed when it has stopped, if it began
}

// beginAfter is when a tunnel begins that has been given no peer until then. Before
// it knows where they are it would refuse what is for them, and from them; so
// packets wait.
const beginAfter = time.Second

// New returns a Dataplane without tunnels.
func New() *Dataplane { return &Dataplane{tunnels: make(map[string]*running)} }

// Close ends all tunnels. Their devices stay.
func (t *Dataplane) Close() {
	t.mu.Lock()
	all := t.tunnels
	t.tunnels, t.emit = make(map[string]*running), nil
	t.mu.Unlock()
	for _, r := range all {
		r.end()
	}
}

// end is called once, and not by those who hold t.mu while it may still begin.
func (r *running) end() {
	r.stop()
	if r.begun {
		<-r.done
	} else {
		r.tunnel.Close()
	}
}

// stale reports whether the device is not the one that has its name now.
func (r *running) stale() bool {
	i, err := net.InterfaceByName(r.is.Dev)
	return err != nil || i.Index != r.index
}

func (r *running) counters() udptunnel.Counters {
	all := r.tunnel.Counters()
	for i, n := range r.before {
		all[i] += n
	}
	return all
}

// Counters returns, by the device of each tunnel, what it has counted.
func (t *Dataplane) Counters() map[string]udptunnel.Counters {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make(map[string]udptunnel.Counters, len(t.tunnels))
	for dev, r := range t.tunnels {
		all[dev] = r.counters()
	}
	return all
}

// Dump implements dataplane.Dataplane.
func (t *Dataplane) Dump(context.Context, state.Set) (state.Observed, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	have := make(state.Observed)
	for dev, r := range t.tunnels {
		if r.stale() {
			continue
		}
		have[r.is.Key()] = state.Entry{Object: r.is, Owner: state.Ours}
		for subnet, host := range r.tunnel.Table().All() {
			p := state.TunnelPeer{Dev: dev, Subnet: subnet, Host: host}
			have[p.Key()] = state.Entry{Object: p, Owner: state.Ours}
		}
	}
	return have, nil
}

// Apply implements dataplane.Dataplane.
func (t *Dataplane) Apply(_ context.Context, ops []state.Op) []error {
	t.mu.Lock()
	defer t.mu.Unlock()
	errs := make([]error, len(ops))
	for i, op := range ops {
		switch op.Key().Kind {
		case state.KindTunnel:
			errs[i] = t.applyTunnel(op)
		case state.KindTunnelPeer:
			errs[i] = t.applyPeer(op)
		default:
			errs[i] = fmt.Errorf("a tunnel has no %s", op.Key().Kind)
		}
	}
	for _, r := range t.tunnels {
		if r.tunnel.Table().Len() > 0 {
			t.begin(r)
		}
	}
	return errs
}

func (t *Dataplane) applyTunnel(op state.Op) error {
	dev := op.Key().Scope
	old := t.tunnels[dev]
	if op.Verb == state.Delete {
		if old != nil {
			delete(t.tunnels, dev)
			old.end()
		}
		return nil
	}
	is := op.Want.(state.Tunnel)
	if old != nil && !old.stale() {
		if op.Verb == state.Create {
			return unix.EEXIST
		}
		now := is
		now.MTU, now.SourceCheck = old.is.MTU, old.is.SourceCheck
		if now == old.is {
			old.is = is
			old.tunnel.Set(is.MTU, is.SourceCheck)
			return nil
		}
	}
	var before udptunnel.Counters
	if old != nil {
		delete(t.tunnels, dev)
		old.end() // its port is needed
		before = old.counters()
	}
	r, err := t.open(is, before)
	if err != nil {
		return err
	}
	if old == nil {
		return nil
	}
	kept := maps.Collect(old.tunnel.Table().All())
	maps.DeleteFunc(kept, func(p netip.Prefix, _ netip.Addr) bool {
		return !is.Network.Contains(p.Addr()) || p.Bits() <= is.Network.Bits() || p.Overlaps(is.Own)
	})
	return r.tunnel.Table().Replace(kept)
}

// open opens a tunnel, which begins later. The caller holds t.mu.
func (t *Dataplane) open(is state.Tunnel, before udptunnel.Counters) (*running, error) {
	opened, err := udptunnel.Open(udptunnel.Config{
		Device: is.Dev, Local: is.Local, Own: is.Own, Network: is.Network, Addr: is.Own.Addr(), MTU: is.MTU,
		SourceCheck: is.SourceCheck, Offload: true,
		Log: func(text string) {
			if t.said.Event(text) {
				klog.Info(text)
			}
		},
	})
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
		return nil, fmt.Errorf("%w: %w", dataplane.ErrNoLink, err)
	}
	if err != nil {
		return nil, err
	}
	device, err := net.InterfaceByName(is.Dev)
	if err != nil {
		opened.Close()
		return nil, fmt.Errorf("%w: %w", dataplane.ErrNoLink, err)
	}
	r := &running{is: is, index: device.Index, tunnel: opened, before: before, done: make(chan struct{})}
	later := time.AfterFunc(beginAfter, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.tunnels[is.Dev] == r {
			t.begin(r)
		}
	})
	r.stop = func() { later.Stop() }
	t.tunnels[is.Dev] = r
	return r, nil
}

// begin has a tunnel carry packets, if it does not yet. The caller holds t.mu.
func (t *Dataplane) begin(r *running) {
	if r.begun {
		return
	}
	r.begun = true
	r.stop()
	ctx, stop := context.WithCancel(context.Background()) // ended by Close
	r.stop = stop
	go func() {
		err := r.tunnel.Run(ctx)
		stop()
		close(r.done)
		t.ended(r, err)
	}()
}

// ended notes that a tunnel has stopped, and tells if nobody asked for that.
func (t *Dataplane) ended(r *running, err error) {
	t.mu.Lock()
	mine := t.tunnels[r.is.Dev] == r
	if mine {
		delete(t.tunnels, r.is.Dev)
	}
	emit := t.emit
	t.mu.Unlock()
	if !mine {
		return
	}
	if text := fmt.Sprintf("%s has stopped: %s", r.is, strings.TrimSpace(fmt.Sprint(err))); t.said.Event(text) {
		klog.Warning(text)
	}
	if emit != nil {
		emit(dataplane.Event{Key: r.is.Key(), Gone: true})
	}
}

func (t *Dataplane) applyPeer(op state.Op) error {
	r := t.tunnels[op.Key().Scope]
	switch {
	case r == nil && op.Verb == state.Delete:
		return nil
	case r == nil:
		return fmt.Errorf("there is no tunnel of %s", op.Key().Scope)
	case op.Verb == state.Delete:
		return r.tunnel.Table().Delete(op.Key().Prefix)
	}
	p := op.Want.(state.TunnelPeer)
	return r.tunnel.Table().Set(p.Subnet, p.Host)
}

// Watch implements dataplane.Dataplane. All that happens by itself is that a tunnel
// stops.
func (t *Dataplane) Watch(ctx context.Context, ready func(), emit func(dataplane.Event)) error {
	t.mu.Lock()
	t.emit = emit
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		t.emit = nil
		t.mu.Unlock()
	}()
	ready()
	<-ctx.Done()
	return ctx.Err()
}
