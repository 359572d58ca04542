// Package tunnel holds tunnels through user space, and tells them where their
// peers are: a target beside the kernel.
package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"flanneld/pkg/state"
	"flanneld/pkg/target"
	"flanneld/pkg/tunnel"
)

// Kinds are the kinds of objects that are held here.
func Kinds() []state.Kind { return []state.Kind{state.KindTunnel, state.KindTunnelPeer} }

// Target holds the tunnels of this process. They end with Close.
type Target struct {
	mu      sync.Mutex
	tunnels map[string]*running // by device
	emit    func(target.Event)  // of the watch, nil if there is none
}

var _ target.Target = (*Target)(nil)

// running is a tunnel at work.
type running struct {
	is     state.Tunnel
	tunnel *tunnel.Tunnel
	stop   context.CancelFunc
	done   chan struct{} // closed when it has stopped
}

// New returns a Target without tunnels.
func New() *Target { return &Target{tunnels: make(map[string]*running)} }

// Close ends all tunnels. Their devices stay.
func (t *Target) Close() {
	t.mu.Lock()
	all := t.tunnels
	t.tunnels, t.emit = make(map[string]*running), nil
	t.mu.Unlock()
	for _, r := range all {
		r.end()
	}
}

func (r *running) end() {
	r.stop()
	<-r.done
}

// Counters lists, for each tunnel, what it has counted.
func (t *Target) Counters() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var texts []string
	for dev, r := range t.tunnels {
		texts = append(texts, dev+": "+r.tunnel.Counters().String())
	}
	return texts
}

// Dump implements target.Target.
func (t *Target) Dump(context.Context) (state.Have, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	have := make(state.Have)
	for dev, r := range t.tunnels {
		have[r.is.Key()] = state.Entry{Object: r.is, Owner: state.Ours}
		for subnet, host := range r.tunnel.Table().All() {
			p := state.TunnelPeer{Dev: dev, Subnet: subnet, Host: host}
			have[p.Key()] = state.Entry{Object: p, Owner: state.Ours}
		}
	}
	return have, nil
}

// Apply implements target.Target.
func (t *Target) Apply(_ context.Context, ops []state.Op) []error {
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
	return errs
}

func (t *Target) applyTunnel(op state.Op) error {
	dev := op.Key().Dev
	old := t.tunnels[dev]
	if old != nil && op.Verb == state.Create {
		return unix.EEXIST
	}
	if old != nil {
		delete(t.tunnels, dev)
		old.end() // its port is needed
	}
	if op.Verb == state.Delete {
		return nil
	}
	r, err := t.start(op.Want.(state.Tunnel))
	if err != nil {
		return err
	}
	if old != nil && old.is.Own.Bits() == r.is.Own.Bits() && old.is.Network == r.is.Network {
		peers := make(map[netip.Prefix]netip.Addr)
		for subnet, host := range old.tunnel.Table().All() {
			peers[subnet] = host
		}
		return r.tunnel.Table().Replace(peers)
	}
	return nil
}

// start opens a tunnel and has it run. The caller holds t.mu.
func (t *Target) start(is state.Tunnel) (*running, error) {
	opened, err := tunnel.Open(tunnel.Config{
		Device: is.Dev, Local: is.Local, Own: is.Own, Network: is.Network, Addr: is.Own.Addr(), MTU: is.MTU,
		SourceCheck: is.SourceCheck, Offload: true,
		Log: func(text string) { klog.Info(text) },
	})
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
		return nil, fmt.Errorf("%w: %w", target.ErrNoLink, err)
	}
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background()) // ended by Close
	r := &running{is: is, tunnel: opened, stop: stop, done: make(chan struct{})}
	t.tunnels[is.Dev] = r
	go func() {
		err := opened.Run(ctx)
		stop()
		close(r.done)
		t.ended(r, err)
	}()
	return r, nil
}

// ended notes that a tunnel has stopped, and tells if nobody asked for that.
func (t *Target) ended(r *running, err error) {
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
	klog.Warningf("%s has stopped: %s", r.is, strings.TrimSpace(fmt.Sprint(err)))
	if emit != nil {
		emit(target.Event{Key: r.is.Key(), Gone: true})
	}
}

func (t *Target) applyPeer(op state.Op) error {
	r := t.tunnels[op.Key().Dev]
	switch {
	case r == nil && op.Verb == state.Delete:
		return nil
	case r == nil:
		return fmt.Errorf("there is no tunnel of %s", op.Key().Dev)
	case op.Verb == state.Delete:
		return r.tunnel.Table().Delete(op.Key().Dst)
	}
	p := op.Want.(state.TunnelPeer)
	return r.tunnel.Table().Set(p.Subnet, p.Host)
}

// Watch implements target.Target. All that happens by itself is that a tunnel
// stops.
func (t *Target) Watch(ctx context.Context, ready func(), emit func(target.Event)) error {
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
