package ec2

import (
	"bytes"
	"io"
	"net/http"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"

	"flanneld/pkg/lab/fakeaws"
)

// addressless adds an interface to the metadata that has no IPv4 address.
type addressless struct{ http.RoundTripper }

func (r addressless) RoundTrip(in *http.Request) (*http.Response, error) {
	const macs, mac = "/latest/meta-data/network/interfaces/macs/", "02:00:00:00:00:99/"
	out, err := r.RoundTripper.RoundTrip(in)
	if err != nil || in.URL.Hostname() != fakeaws.MetadataAddr {
		return out, err
	}
	var body []byte
	switch in.URL.Path {
	case macs:
		body, err = io.ReadAll(out.Body)
		body = append(body, "\n"+mac...)
	case macs + mac + "interface-id":
		body = []byte("eni-0123456789abcdef0")
	case macs + mac + "subnet-id":
		body = []byte("subnet-0123456789abcdef0")
	case macs + mac + "vpc-id":
		body = []byte("vpc-0123456789abcdef0")
	default:
		return out, nil
	}
	out.StatusCode, out.ContentLength, out.Body = http.StatusOK, int64(len(body)), io.NopCloser(bytes.NewReader(body))
	return out, err
}

// An interface that is for IPv6 alone is no obstacle.
func TestInterfaceWithoutAddress(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.start(f.a, config.WithHTTPClient(&http.Client{Transport: addressless{f.Transport(f.a)}}))
		f.run(time.Minute)
		f.wantFailures(nil)
	})
}

// loseInterface has the host's routes lead to a second interface of its instance, and then
// takes that away. It returns the address.
func (f *fixture) loseInterface() netip.Addr {
	f.t.Helper()
	addr := f.a.Interface().Addr.Next().Next().Next()
	second, err := f.a.Attach(f.a.Interface().Subnet, addr)
	f.check(err)
	f.desireFor(second.In(family), f.vpc.Main.ID)
	f.run(3 * time.Minute)
	f.wantRoute(f.vpc.Main, ownDst, second)
	f.check(second.Detach())
	f.check(second.Delete())
	return addr
}

// A route whose interface has been replaced by another one with the same address is put
// right in the time that any other is: the table shows that it leads nowhere, or EC2 says
// that there is no such interface.
func TestReplacedInterface(t *testing.T) {
	for name, deleted := range map[string]bool{"leads nowhere": false, "deleted": true} {
		t.Run(name, func(t *testing.T) {
			withFixture(t, func(f *fixture) {
				addr := f.loseInterface()
				if deleted {
					f.check(f.vpc.Main.DeleteRoute(ownDst.String()))
				}
				second, err := f.a.Attach(f.a.Interface().Subnet, addr)
				f.check(err)
				f.run(2 * (period + spread))
				f.wantRoute(f.vpc.Main, ownDst, second)
				if second.SourceDestCheck() {
					t.Error("the check is on")
				}
			})
		})
	}
}

// metadataCount counts requests for metadata.
type metadataCount struct {
	http.RoundTripper
	n atomic.Int64
}

func (c *metadataCount) RoundTrip(in *http.Request) (*http.Response, error) {
	if in.URL.Hostname() == fakeaws.MetadataAddr {
		c.n.Add(1)
	}
	return c.RoundTripper.RoundTrip(in)
}

// An interface that is gone for good is asked for no more often than another one that
// is not there.
func TestInterfaceGone(t *testing.T) {
	withFixture(t, func(f *fixture) {
		count := &metadataCount{RoundTripper: f.Transport(f.a)}
		f.start(f.a, config.WithHTTPClient(&http.Client{Transport: count}))
		f.loseInterface()
		f.run(10 * time.Minute)
		before := count.n.Load()
		f.run(time.Hour)
		const each = 11 // requests to find out who this host is
		if n := count.n.Load() - before; n == 0 || n > 60*each {
			t.Errorf("%d requests in an hour", n)
		}
	})
}

// Looks that are one too many wait their time even if this host's interface leads nowhere.
func TestReplacedInterfaceThrottled(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.run(3 * time.Minute)
		f.a.Stop()
		f.run(5 * time.Minute)
		f.SetLimit(fakeaws.NonMutating, fakeaws.Limit{})
		f.run(10 * time.Minute)
		f.ForgetCalls()
		f.run(time.Hour)
		if n := len(f.Calls("DescribeRouteTables")); n == 0 || n > 60 {
			t.Errorf("%d looks in an hour", n)
		}
	})
}
