package netfilter

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/dataplane/dataplanetest"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
)

// counted is a host on which all starts of iptables are written down, but for those
// of the host itself.
type counted struct {
	iptHost
	log string
}

// countingIPTables is freshIPTables with programs that say which version they are
// unless that is empty.
func countingIPTables(t *testing.T, way wayKey, version string) counted {
	t.Helper()
	dataplanetest.NeedNetns(t)
	h := counted{freshIPTables(t, way), filepath.Join(t.TempDir(), "log")}
	for _, suffix := range []string{"", "-save", "-restore"} {
		script := fmt.Sprintf("#!/bin/sh\necho %s%s \"$@\" >> %s\n", h.in("iptables"), suffix, h.log)
		if version != "" && suffix == "" {
			script += fmt.Sprintf("echo '%s'\n", version)
		} else {
			script += fmt.Sprintf("exec %s \"$@\"\n", program(t, way, suffix))
		}
		path := filepath.Join(h.bin, h.in("iptables")+suffix)
		if err := errors.Join(os.Remove(path), os.WriteFile(path, []byte(script), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// starts returns the starts since the last call.
func (h counted) starts(t testing.TB) []string {
	t.Helper()
	text, err := os.ReadFile(h.log)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	_ = os.Remove(h.log)
	return strings.FieldsFunc(string(text), func(c rune) bool { return c == '\n' })
}

func forEachVariant(t *testing.T, test func(*testing.T, wayKey)) {
	for _, way := range variants {
		t.Run(way.String(), func(t *testing.T) { test(t, way) })
	}
}

// settle makes the rules as wanted, in at most two passes.
func settle(t testing.TB, rules *Dataplane, want state.Set) {
	t.Helper()
	var ops []state.Op
	for tries := 0; tries < 3; tries++ {
		have, err := rules.Dump(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		ops, _ = dataplanetest.Steps(want, have)
		for i, err := range rules.Apply(t.Context(), ops) {
			if errors.Is(err, dataplane.ErrSettling) {
				tries = -1
				time.Sleep(10 * time.Millisecond)
			} else if err != nil {
				t.Fatalf("%s: %v", ops[i], err)
			}
		}
		if len(ops) == 0 {
			return
		}
	}
	t.Fatalf("there is still to do: %v", ops)
}

// watch calls back for each event until the test ends.
func watch(t *testing.T, w dataplane.Dataplane, emit func(dataplane.Event)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- w.Watch(ctx, func() { close(ready) }, emit) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the watch ends with %v", err)
		}
	})
	select {
	case <-ready:
	case err := <-ended:
		ended <- err
		t.Fatal(err)
	}
}

// kubeRules are written by kube-proxy all the time, here for n services.
func kubeRules(n int) string {
	var b strings.Builder
	b.WriteString("*nat\n:KUBE-NODEPORTS -\n:KUBE-SERVICES -\n:KUBE-POSTROUTING -\n")
	for i := range n {
		fmt.Fprintf(&b, ":KUBE-SVC-%d -\n-A KUBE-SERVICES -d 10.96.0.%d/32 -j KUBE-SVC-%d\n-A KUBE-NODEPORTS -p tcp --dport %d -j KUBE-SVC-%[1]d\n", i, i+1, i, 30000+i)
	}
	b.WriteString("-A KUBE-POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE\nCOMMIT\n")
	return b.String()
}

// connect sends a packet of a new connection, so that it counts in all rules.
func connect(t testing.TB, f ip.Family) {
	t.Helper()
	c, err := net.Dial("udp", net.JoinHostPort(dataplanetest.In(f, "127.0.0.1"), "9"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = c.Write([]byte("x")) // nobody listens
}

// A daemon that has nothing to do starts no process, whatever goes on in chains
// that are none of its business; and neither does one that finds its rules in place.
func TestIPTablesProcesses(t *testing.T) {
	ipPath, err := exec.LookPath("ip")
	if err != nil {
		t.Fatal(err)
	}
	forEachVariant(t, func(t *testing.T, way wayKey) {
		h := countingIPTables(t, way, "")
		want := way.wish()
		run(t, "", ipPath, "link", "set", "lo", "up")
		kube := func(n int) { run(t, h.in(kubeRules(n)), program(t, way, "-restore"), "--noflush") }
		kube(1)
		h.do(t, "-t nat -I POSTROUTING -j KUBE-POSTROUTING")
		settle(t, New(true), want)
		if n := h.starts(t); len(n) == 0 {
			t.Fatal("nothing was started, or not written down")
		}

		again := New(true)
		watch(t, again, func(dataplane.Event) {})
		settle(t, again, want)
		for _, start := range h.starts(t) {
			if strings.Contains(start, "-restore") {
				t.Errorf("the rules were there, and %q was started", start)
			}
		}
		for n := range 10 {
			kube(n)
			connect(t, way.Family)
			settle(t, again, want)
		}
		time.Sleep(2 * infoEvery)
		if n := h.starts(t); len(n) > 0 {
			t.Errorf("started was %q", n)
		}
		h.do(t, "-t nat -F FLANNEL-POSTRTG")
		settle(t, again, want)
		if n := h.starts(t); len(n) == 0 || len(n) > 3 {
			t.Errorf("to mend it, started was %q", n)
		}
	})
}

// What iptables can do is asked of it, again when it is another one.
func TestIPTablesVersions(t *testing.T) {
	forEachVariant(t, func(t *testing.T, way wayKey) {
		variant := map[state.RuleBackend]string{state.IPTablesLegacy: "", state.IPTablesNFT: " (nf_tables)"}[way.RuleBackend]
		h := countingIPTables(t, way, dataplanetest.In(way.Family, "iptables v1.6.1")+variant)
		target, want := New(true), way.wish()
		settle(t, target, want)
		text := h.rules(t)
		if !strings.Contains(text, "-j MASQUERADE\n") || strings.Contains(text, "--random-fully") {
			t.Errorf("there is\n%s", text)
		}
		if n := strings.Join(h.starts(t), "\n"); strings.Contains(n, "--wait") {
			t.Errorf("started was %s", n)
		}
		path := filepath.Join(h.bin, h.in("iptables"))
		if err := errors.Join(os.Remove(path), os.Symlink(program(t, way, ""), path)); err != nil {
			t.Fatal(err)
		}
		settle(t, New(true), want)
		if text := h.rules(t); strings.Count(text, "-j MASQUERADE --random-fully\n") != 2 {
			t.Errorf("there is\n%s", text)
		}
		if n := strings.Join(h.starts(t), "\n"); !strings.Contains(n, h.in("iptables")+"-restore --noflush --wait=1") {
			t.Errorf("started was %s", n)
		}
	})
}

// Who keeps the lock holds up all steps together for as long as one program waits.
func TestIPTablesLocked(t *testing.T) {
	dataplanetest.NeedNetns(t)
	h := countingIPTables(t, wayKey{state.IPTablesLegacy, ip.V4}, "")
	lock, err := os.Create(os.Getenv("XTABLES_LOCKFILE"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	w := New(true)
	want := h.way.wish()
	ops, _ := state.Diff(want, nil, slices.Collect(maps.Keys(want)), nil)
	for _, err := range w.Apply(t.Context(), ops) {
		for _, text := range []string{lock.Name(), "lock", "fuser"} {
			if err == nil || !strings.Contains(err.Error(), text) {
				t.Errorf("the error does not mention %s: %v", text, err)
			}
		}
	}
	starts := strings.Join(h.starts(t), "\n")
	if n := strings.Count(starts, "--noflush --wait=1"); n != 1 || len(ops) < 2 {
		t.Errorf("%d steps had %d programs wait:\n%s", len(ops), n, starts)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	time.Sleep(lockPause)
	settle(t, w, want)
	if text := h.rules(t); !strings.Contains(text, "FORWARD -m comment") {
		t.Errorf("there is\n%s", text)
	}
}

// Without the program it is said what is missing, whatever is to be done; rules of
// iptables-nft can be taken away all the same.
func TestIPTablesAbsent(t *testing.T) {
	forEachVariant(t, func(t *testing.T, way wayKey) {
		dataplanetest.NeedNetns(t)
		h := freshIPTables(t, way)
		if err := os.RemoveAll(h.bin); err != nil {
			t.Fatal(err)
		}
		w, want := New(true), way.wish()
		for _, o := range want {
			err := w.Apply(t.Context(), []state.Op{{Verb: state.Create, Want: o}})[0]
			for _, text := range []string{way.String(), h.bin, "-masq-mode=nftables"} {
				if !errors.Is(err, errAbsent) || !strings.Contains(err.Error(), text) {
					t.Errorf("%s: the error does not mention %s: %v", o, text, err)
				}
			}
		}
		settle(t, w, nil)
		if err := w.Unseen(); err != nil {
			t.Errorf("there is nothing, and %v", err)
		}
		h.do(t, oldIPTables["D"])
		if way.RuleBackend == state.IPTablesNFT {
			settle(t, w, nil)
			if text := h.rules(t); text != "" {
				t.Errorf("there is\n%s", text)
			}
		} else if err := w.available(t.Context(), way); !errors.Is(err, errAbsent) {
			t.Errorf("there are rules that can't be seen: %v", err)
		} else {
			settle(t, w, nil)
			if err := w.Unseen(); !errors.Is(err, errLeft) || !strings.Contains(err.Error(), h.bin) {
				t.Errorf("what can't be seen is not told: %v", err)
			}
			if _, why := w.Choose(t.Context(), way.Family, ModeAuto, nil); !strings.Contains(why, h.bin) {
				t.Errorf("it is chosen because %s", why)
			}
		}
	})
}

// Tables of iptables in which someone has put what it does not know are said to be
// so; old rules go from there all the same.
func TestIPTablesIncompatible(t *testing.T) {
	dataplanetest.NeedNetns(t)
	nft, err := exec.LookPath("nft")
	if err != nil {
		t.Fatal(err)
	}
	h := countingIPTables(t, wayKey{state.IPTablesNFT, ip.V4}, "")
	t.Cleanup(func() { run(t, "", nft, "flush", "ruleset") })
	const base = "add chain ip nat mine { type nat hook postrouting priority 101; }"
	run(t, "add table ip nat; "+base, nft, "-f", "-")
	settle(t, New(true), h.way.wish()) // it only leaves that chain out
	settle(t, New(true), nil)

	h.do(t, oldIPTables["D"])
	const theirs = "jhash ip saddr mod 2 vmap { 0 : accept, 1 : return }"
	run(t, "add rule ip nat POSTROUTING "+theirs, nft, "-f", "-")
	w := New(true)
	for _, o := range h.way.wish() {
		err := w.Apply(t.Context(), []state.Op{{Verb: state.Create, Want: o}})[0]
		for _, text := range []string{"table nat", "nft list table ip nat", "-masq-mode=nftables"} {
			if err == nil || !strings.Contains(err.Error(), text) {
				t.Errorf("%s: the error does not mention %s: %v", o, text, err)
			}
		}
	}
	if err := w.available(t.Context(), h.way); !errors.Is(err, errAbsent) {
		t.Errorf("it is available: %v", err)
	}
	settle(t, w, wayKey{state.NFTables, ip.V4}.wish())
	left := run(t, "", nft, "list", "table", "ip", "nat")
	if strings.Contains(left, "10.1.") || !strings.Contains(left, theirs) {
		t.Errorf("there is left\n%s", left)
	}
	h.starts(t)
	settle(t, w, wayKey{state.NFTables, ip.V4}.wish())
	if starts := h.starts(t); len(starts) > 0 {
		t.Errorf("nothing has changed, and started was %q", starts)
	}
	run(t, "", nft, "flush", "chain", "ip", "nat", "POSTROUTING")
	if err := w.available(t.Context(), h.way); err != nil {
		t.Errorf("that is mended, and %v", err)
	}
}

// What a program objects to is in the error.
func TestIPTablesRefused(t *testing.T) {
	forEachVariant(t, func(t *testing.T, way wayKey) {
		dataplanetest.NeedNetns(t)
		freshIPTables(t, way)
		tool, err := new(iptTools).find(t.Context(), way.RuleBackend, families[way.Family])
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{"-A FORWARD --nonsense", dataplanetest.In(way.Family, "-D FORWARD -s 192.0.2.1 -j ACCEPT")} {
			err := tool.change(t.Context(), "filter", []string{"-A FORWARD -j ACCEPT", line}, func() bool { return true })
			var exit *exec.ExitError
			if !errors.As(err, &exit) || !strings.Contains(err.Error(), fmt.Sprintf("line 3 is %q", line)) {
				t.Errorf("%s: %v", line, err)
			}
		}
	})
}
