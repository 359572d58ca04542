package netfilter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/klog/v2"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
)

// fakeWay is a way of which a test says how it is.
type fakeWay struct {
	have    state.Observed
	dumpErr error
	foreign string
	// othersErr is what others fails with.
	othersErr error
	applied   []state.Op
	changes   chan struct{}
	// watchErr is what its watch fails with, once.
	watchErr error
}

func (w *fakeWay) dump(context.Context) (state.Observed, error) { return w.have, w.dumpErr }
func (w *fakeWay) others(context.Context) (string, error)       { return w.foreign, w.othersErr }
func (w *fakeWay) apply(_ context.Context, op state.Op) error {
	w.applied = append(w.applied, op)
	return nil
}

func (w *fakeWay) watch(ctx context.Context, ready, changed func()) error {
	if w.watchErr != nil {
		err := w.watchErr
		w.watchErr = nil
		return err
	}
	if w.changes == nil {
		return nil
	}
	ready()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.changes:
			changed()
		}
	}
}

// in4 has ways for IPv4 alone.
func in4(ways map[state.RuleBackend]way, variant func(context.Context, *family) (state.RuleBackend, error)) *Dataplane {
	all := make(map[wayKey]way)
	for name, w := range ways {
		all[wayKey{name, ip.V4}] = w
	}
	return of(all, variant)
}

func create(way state.RuleBackend) state.Op {
	return state.Op{Verb: state.Create, Want: state.Forward{Backend: way, Network: testFwd.Network}}
}

// A way that cannot be seen has nothing and takes no steps; the others do.
func TestBrokenWay(t *testing.T) {
	broken := errors.New("it is broken")
	good := &fakeWay{have: state.Observed{testFwd.Key(): {Object: testFwd, Owner: state.Ours}}}
	bad := &fakeWay{have: state.Observed{testMasq.Key(): {Object: testMasq, Owner: state.Ours}}, dumpErr: broken}
	target := in4(map[state.RuleBackend]way{state.NFTables: good, state.IPTablesLegacy: bad}, nil)
	have, err := target.Dump(t.Context(), nil)
	if err != nil || len(have) != 1 || have[testFwd.Key()].Object != testFwd {
		t.Errorf("Dump() = %v, %v", have, err)
	}
	ops := []state.Op{create(state.IPTablesLegacy), create(state.NFTables), create("smoke signals"), {Verb: state.Create, Want: state.Addr{Dev: "nftables"}}}
	errs := target.Apply(t.Context(), ops)
	if !errors.Is(errs[0], broken) || errs[1] != nil || errs[2] == nil || errs[3] == nil {
		t.Errorf("Apply() = %v", errs)
	}
	bad.dumpErr = nil
	if _, err := target.Dump(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if errs := target.Apply(t.Context(), ops[:2]); errs[0] != nil || errs[1] != nil {
		t.Errorf("with all ways, Apply() = %v", errs)
	}
	if len(good.applied) != 2 || len(bad.applied) != 1 {
		t.Errorf("%d and %d steps were taken", len(good.applied), len(bad.applied))
	}
}

// What is wrong with the rules of one family is said of it alone, and does not keep the other's
// from being written.
func TestBrokenFamily(t *testing.T) {
	broken := errors.New("it is broken")
	good, bad := &fakeWay{}, &fakeWay{dumpErr: broken}
	target := of(map[wayKey]way{{state.IPTablesNFT, ip.V4}: good, {state.IPTablesNFT, ip.V6}: bad}, nil)
	if _, err := target.Dump(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	v6 := state.Forward{Backend: state.IPTablesNFT, Network: testMasq6.Network}
	errs := target.Apply(t.Context(), []state.Op{create(state.IPTablesNFT), {Verb: state.Create, Want: v6}})
	if errs[0] != nil || !errors.Is(errs[1], broken) || len(good.applied) != 1 || len(bad.applied) != 0 {
		t.Errorf("Apply() = %v", errs)
	}
	if err := target.Unseen(); !errors.Is(err, broken) || !strings.Contains(err.Error(), "ip6tables-nft") {
		t.Errorf("Unseen() = %v", err)
	}
	for f, want := range map[ip.Family]string{ip.V4: "", ip.V6: "chain DOCKER"} {
		good.foreign, bad.foreign, bad.dumpErr = "", "chain DOCKER", nil
		target.ways[wayKey{state.NFTables, f}] = &fakeWay{}
		way, why := target.Choose(t.Context(), f, ModeAuto, nil)
		if !strings.HasSuffix(why, want) || (way == state.IPTablesNFT) != (want != "") {
			t.Errorf("for %s it is %s, for %q", f, way, why)
		}
	}
}

// What changes is told of with all that there is and was; ways that have nothing
// to watch do not end the watch.
func TestWatchWays(t *testing.T) {
	w := &fakeWay{changes: make(chan struct{}), have: state.Observed{testFwd.Key(): {Object: testFwd, Owner: state.Ours}}}
	all := in4(map[state.RuleBackend]way{state.NFTables: w, state.IPTablesLegacy: &fakeWay{}}, nil)
	ctx, cancel := context.WithCancel(t.Context())
	events, ready, ended := make(chan dataplane.Event, 9), make(chan struct{}), make(chan error)
	go func() { ended <- all.Watch(ctx, func() { close(ready) }, func(e dataplane.Event) { events <- e }) }()
	<-ready
	want := func(gone bool) {
		t.Helper()
		w.changes <- struct{}{}
		select {
		case e := <-events:
			if e.Key != testFwd.Key() || e.Gone != gone || (e.Entry.Object == testFwd) == gone {
				t.Errorf("the event is %+v", e)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("no event")
		}
	}
	for range 2 {
		want(false)
		have := w.have
		w.have = nil
		want(true)
		want(true) // it may have been put right and gone again meanwhile
		w.have = have
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Watch() = %v", err)
	}
	if len(events) > 0 {
		t.Errorf("%d more events", len(events))
	}
}

// A way whose watch fails is watched again, and then looked at, for something may
// have happened meanwhile; nothing else waits for it.
func TestWatchFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &fakeWay{
			changes: make(chan struct{}), watchErr: errors.New("no"),
			have: state.Observed{testFwd.Key(): {Object: testFwd, Owner: state.Ours}},
		}
		all := in4(map[state.RuleBackend]way{state.NFTables: w}, nil)
		ctx, cancel := context.WithCancel(t.Context())
		start := time.Now()
		events, ended := make(chan dataplane.Event, 9), make(chan error)
		go func() {
			ended <- all.Watch(ctx, func() {
				if took := time.Since(start); took > 0 {
					t.Errorf("ready after %s", took)
				}
			}, func(e dataplane.Event) { events <- e })
		}()
		<-events
		if took := time.Since(start); took != watchPause {
			t.Errorf("it is looked at after %s", took)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Watch() = %v", err)
		}
	})
}

func TestChoose(t *testing.T) {
	yes, no := true, false
	absent := fmt.Errorf("%w: install it", errAbsent)
	for _, c := range []struct {
		what        string
		mode        Mode
		said        *bool
		nft, legacy string // what others have by iptables
		host        state.RuleBackend
		want        state.RuleBackend
		why         string
	}{
		{"nothing", ModeAuto, nil, "", "", state.IPTablesNFT, state.NFTables, "no one has rules of iptables"},
		{"nothing at all", ModeAuto, nil, "", "", "", state.NFTables, "no one has rules of iptables"},
		{"docker", ModeAuto, nil, "chain DOCKER", "", state.IPTablesNFT, state.IPTablesNFT, "others on this host use it: chain DOCKER"},
		{"old docker", ModeAuto, nil, "", "chain DOCKER", state.IPTablesLegacy, state.IPTablesLegacy, "others on this host use it: chain DOCKER"},
		{"docker, and something old", ModeAuto, nil, "chain DOCKER", "chain OLD", state.IPTablesNFT, state.IPTablesNFT, "chain DOCKER"},
		{"old docker, and something new", ModeAuto, nil, "chain NEW", "chain DOCKER", state.IPTablesLegacy, state.IPTablesLegacy, "chain DOCKER"},
		{"docker by another iptables", ModeAuto, nil, "chain DOCKER", "", "", state.NFTables, "but not available"},
		{"config yes", ModeAuto, &yes, "chain DOCKER", "", state.IPTablesNFT, state.NFTables, "EnableNFTables"},
		{"config no", ModeAuto, &no, "", "", state.IPTablesLegacy, state.IPTablesLegacy, "EnableNFTables"},
		{"config no, and no iptables", ModeAuto, &no, "", "", "", state.NFTables, "asks for iptables (EnableNFTables), but not available"},
		{"flag", ModeNFTables, &no, "chain DOCKER", "", state.IPTablesNFT, state.NFTables, "-masq-mode"},
		{"other flag", ModeIPTables, &yes, "", "", state.IPTablesLegacy, state.IPTablesLegacy, "-masq-mode"},
		{"other flag, and no iptables", ModeIPTables, nil, "", "", "", state.IPTablesNFT, "install it"},
	} {
		ways := map[state.RuleBackend]way{
			state.NFTables: &fakeWay{}, state.IPTablesNFT: &fakeWay{foreign: c.nft}, state.IPTablesLegacy: &fakeWay{foreign: c.legacy},
		}
		variant := func(context.Context, *family) (state.RuleBackend, error) { return c.host, nil }
		if c.host == "" {
			variant = func(context.Context, *family) (state.RuleBackend, error) { return "", absent }
			ways[state.IPTablesNFT].(*fakeWay).dumpErr = absent
		}
		way, why := in4(ways, variant).Choose(t.Context(), ip.V4, c.mode, c.said)
		if way != c.want || !strings.Contains(why, c.why) {
			t.Errorf("%s: it is %s, for %q; want %s, for %q", c.what, way, why, c.want, c.why)
		}
	}
}

// What of a way cannot be seen is asked again and again as others write rules, and logged
// once; so is what fails now and then.
func TestUnseenIsNotLoggedEachTime(t *testing.T) {
	var b bytes.Buffer // klog writes under a lock
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	klog.SetOutputBySeverity("INFO", &b) // gets those that are worse, too
	defer func() {
		klog.LogToStderr(true)
		klog.SetOutput(os.Stderr)
	}()
	broken := errors.New("it is broken")
	odd := &fakeWay{othersErr: broken}
	ways := in4(map[state.RuleBackend]way{state.NFTables: &fakeWay{}, state.IPTablesNFT: odd}, nil)
	for i := range 50 {
		ways.Choose(t.Context(), ip.V4, ModeAuto, nil)
		if odd.dumpErr = nil; i%2 == 0 {
			odd.dumpErr = broken
		}
		if _, err := ways.Dump(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
	klog.Flush()
	for text, most := range map[string]int{"whether others have rules": 1, "what there is of rules": 3} {
		if got := strings.Count(b.String(), text); got < 1 || got > most {
			t.Errorf("logged %d times: %s", got, text)
		}
	}
}
