package lab_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"flanneld/pkg/lab"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if err := lab.Enter(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if os.Getenv(childEnv) != "" {
		childMain()
	}
	goleak.VerifyTestMain(m)
}

// newLab makes a lab that ends with the test.
func newLab(t *testing.T) *lab.Lab {
	t.Helper()
	l, err := lab.New(lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(l.Dir); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", l.Dir, err)
		}
	})
	return l
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// twoHosts are two hosts on one switch.
func twoHosts(t *testing.T) (l *lab.Lab, h1, h2 *lab.Host) {
	t.Helper()
	l = newLab(t)
	sw := must(l.AddSwitch("lan", netip.MustParsePrefix("192.168.50.0/24")))(t)
	h1 = must(l.AddHost("h1", sw, lab.HostOptions{}))(t)
	h2 = must(l.AddHost("h2", sw, lab.HostOptions{}))(t)
	return l, h1, h2
}

const shortly = 300 * time.Millisecond

func wantPing(t *testing.T, from *lab.Namespace, to netip.Addr) {
	t.Helper()
	if err := from.WaitPing(testContext(t), to); err != nil {
		t.Fatal(err)
	}
}

func wantNoPing(t *testing.T, from *lab.Namespace, to netip.Addr) {
	t.Helper()
	if rtt, err := from.Ping(testContext(t), to, shortly); err == nil {
		t.Fatalf("%s reached %s in %s", from.Name, to, rtt)
	}
}

func wantRoutes(t *testing.T, ns *lab.Namespace, want ...string) {
	t.Helper()
	got := must(ns.Routes())(t)
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("routes of %s:\n%q\nwant:\n%q", ns.Name, got, want)
	}
}
