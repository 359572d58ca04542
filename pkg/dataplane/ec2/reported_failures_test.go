package ec2

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/state"
)

// A route that nobody has seen is not known to be missing.
func TestPeerNotSeen(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.peer(f.vpc.Main.ID)
		f.run(20 * time.Second)
		f.Deny("DescribeRouteTables")
		f.check(f.vpc.Main.CreateRoute(peerDst.String(), f.b.Interface().ID))
		f.run(absentFor + time.Minute)
		f.wantFailures(nil)
	})
}

// The route of another host that leads here is as good as missing.
func TestPeerLeadsHere(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.peer(f.vpc.Main.ID)
		f.check(f.vpc.Main.CreateRoute(peerDst.String(), f.a.Interface().ID))
		f.run(absentFor + 3*time.Minute)
		if len(f.failures()) != 1 {
			t.Errorf("failures: %v", f.failures())
		}
	})
}

// All that counts for the limit is counted.
func TestFullTableCount(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.SetRouteLimit(4)
		f.check(f.vpc.Main.AddEndpoint("pl-0123456789abcdef0", "vpce-0123456789abcdef0"))
		for i := range 2 {
			f.check(f.vpc.Main.CreateRoute(cidr(fmt.Sprintf("10.9.%d.0/24", i)), f.b.Interface().ID))
		}
		f.run(time.Minute)
		for _, err := range f.failures() {
			if !strings.Contains(err.Error(), "the table has 4 routes") {
				t.Error(err)
			}
		}
	})
}

// What differs each time is left out of what is told: it would be told each time.
func TestSameText(t *testing.T) {
	refused := func() error { // as of a resolver of this host that is down
		r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "udp", "127.0.0.1:1")
		}}
		_, err := r.LookupHost(t.Context(), "ec2.eu-central-1.amazonaws.com.")
		return err
	}
	expired := func() error { // as where the clock is wrong, or a proxy is old
		_, err := (&x509.Certificate{Raw: []byte{1}, NotAfter: time.Now().Add(-time.Hour)}).Verify(x509.VerifyOptions{Roots: x509.NewCertPool()})
		time.Sleep(time.Second)
		return err
	}
	for name, fail := range map[string]func() error{"resolver": refused, "certificate": expired} {
		wrap := func() string {
			return explain(&url.Error{Op: "Post", URL: "https://ec2", Err: fail()}, "DescribeRouteTables", "rtb-1").Error()
		}
		if a, b := wrap(), wrap(); a != b {
			t.Errorf("%s:\n%s\n%s", name, a, b)
		}
	}
}

// changes counts how often another outcome of a step is told in an hour.
func (f *fixture) changes(k state.Key) (n int) {
	said := ""
	for range 60 * 60 / 5 {
		f.run(5 * time.Second)
		text := ""
		if err := f.failures()[k]; err != nil {
			text = err.Error()
		}
		if text != said {
			said = text
			n++
		}
	}
	return n
}

// Nor is it told each time that there was no answer.
func TestSilenceIsSaidOnce(t *testing.T) {
	withFixture(t, func(f *fixture) {
		g := f.behindBarrier()
		f.run(3 * time.Minute)
		f.a.Interface().SetSourceDestCheck(false)
		f.check(f.vpc.Main.DeleteRoute(ownDst.String()))
		g.shut(false)
		f.between(func() { delete(f.tables[f.vpc.Main.ID].routes, ownDst) }) // it was seen just before
		f.pass()
		n := f.changes(state.CloudRoute{Table: f.vpc.Main.ID, Dst: ownDst}.Key())
		if g.reopen(); n > 10 {
			t.Errorf("in an hour of silence, the failure of one step is told %d times", n)
		}
	})
}

// Nor, where a table was never seen, while it is being looked for.
func TestSilenceAboutTable(t *testing.T) {
	withFixture(t, func(f *fixture) {
		g := f.behindBarrier()
		f.run(3 * time.Minute)
		g.shut(false)
		f.desire(f.vpc.Main.ID, f.table.ID)
		n := f.changes(state.CloudRoute{Table: f.table.ID, Dst: ownDst}.Key())
		if g.reopen(); n > 10 {
			t.Errorf("in an hour of silence, the failure of one step is told %d times", n)
		}
	})
}
