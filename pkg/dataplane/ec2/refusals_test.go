package ec2

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"

	"flanneld/pkg/lab/fakeaws"
	"flanneld/pkg/state"
)

// Each permission that is missing is named, takes what needs it and nothing else,
// and is used when it is there.
func TestDenied(t *testing.T) {
	const check = "EC2 drops what pods of this host send and get, while its source/destination check is on: "
	for action, c := range map[string]struct {
		prepare func(*fixture) error
		want    func(*fixture) map[state.Kind]string
	}{
		"CreateRoute": {want: func(f *fixture) map[state.Kind]string {
			return map[state.Kind]string{state.KindCloudRoute: "CreateRoute on " + f.vpc.Main.ID + ": UnauthorizedOperation: the credentials lack the permission ec2:CreateRoute"}
		}},
		"ReplaceRoute": {
			prepare: func(f *fixture) error { return f.vpc.Main.CreateRoute(ownDst.String(), f.b.Interface().ID) },
			want: func(f *fixture) map[state.Kind]string {
				return map[state.Kind]string{state.KindCloudRoute: "ReplaceRoute on " + f.vpc.Main.ID + ": UnauthorizedOperation: the credentials lack the permission ec2:ReplaceRoute"}
			},
		},
		"DeleteRoute": {
			prepare: func(f *fixture) error {
				gone, err := f.RunInstance(f.b.Interface().Subnet, fakeaws.InstanceOptions{})
				if err == nil {
					err = f.vpc.Main.CreateRoute(cidr("10.1.7.0/24"), gone.Interface().ID)
					gone.Terminate()
				}
				return err
			},
			want: func(f *fixture) map[state.Kind]string {
				return map[state.Kind]string{state.KindCloudRoute: "DeleteRoute on " + f.vpc.Main.ID + ": UnauthorizedOperation: the credentials lack the permission ec2:DeleteRoute"}
			},
		},
		"ModifyNetworkInterfaceAttribute": {want: func(f *fixture) map[state.Kind]string {
			return map[state.Kind]string{state.KindCloudInterface: check + "ModifyNetworkInterfaceAttribute on " + f.a.Interface().ID + ": UnauthorizedOperation: the credentials lack the permission ec2:ModifyNetworkInterfaceAttribute"}
		}},
		// What can't be seen is set all the same.
		"DescribeNetworkInterfaceAttribute": {want: func(*fixture) map[state.Kind]string { return nil }},
		"DescribeRouteTables": {want: func(f *fixture) map[state.Kind]string {
			return map[state.Kind]string{state.KindCloudRoute: "route table " + f.vpc.Main.ID + " is not known: DescribeRouteTables on route table " + f.vpc.Main.ID + ": UnauthorizedOperation: the credentials lack the permission ec2:DescribeRouteTables"}
		}},
	} {
		t.Run(action, func(t *testing.T) {
			withFixture(t, func(f *fixture) {
				if c.prepare != nil {
					f.check(c.prepare(f))
				}
				f.Deny(action)
				f.run(3 * time.Minute)
				f.wantFailures(c.want(f))
				if n := len(f.Calls(action)); n == 0 || n > 15 {
					t.Errorf("%d calls that are denied in 3 minutes", n)
				}
				f.Allow(action)
				f.run(2 * time.Minute)
				f.wantFailures(nil)
				f.wantRoute(f.vpc.Main, ownDst, f.a.Interface())
				if len(made(f.vpc.Main)) != 1 || f.a.Interface().SourceDestCheck() {
					t.Errorf("%v, check %v", f.vpc.Main.Routes(), f.a.Interface().SourceDestCheck())
				}
			})
		})
	}
}

// Whether packets of others pass can't be seen, and they do not while the routes are
// there: it is set all the same.
func TestHiddenCheck(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.check(f.vpc.Main.CreateRoute(ownDst.String(), f.a.Interface().ID))
		f.Deny("DescribeNetworkInterfaceAttribute")
		f.run(time.Minute)
		f.wantFailures(nil)
		if f.a.Interface().SourceDestCheck() {
			t.Error("the check is on")
		}
		if calls := f.Calls("ModifyNetworkInterfaceAttribute"); len(calls) != 1 {
			t.Errorf("%v", calls)
		}
	})
}

// A table that may not be changed, or is not there, is no matter to another one.
func TestTwoTables(t *testing.T) {
	withFixture(t, func(f *fixture) {
		const none, noneEither = "rtb-0123456789abcdef0", "rtb-0123456789abcdef1"
		f.desire(f.vpc.Main.ID, f.table.ID, none, noneEither)
		f.Deny("CreateRoute", f.vpc.Main.ID)
		f.run(3 * time.Minute)
		f.wantRoute(f.table, ownDst, f.a.Interface())
		for table, want := range map[string]string{
			f.vpc.Main.ID: "CreateRoute on " + f.vpc.Main.ID + ": UnauthorizedOperation: the credentials lack the permission ec2:CreateRoute",
			none:          "route table " + none + " is not known: there is no route table " + none + " in this region",
			noneEither:    "route table " + noneEither + " is not known: there is no route table " + noneEither + " in this region",
		} {
			k := state.CloudRoute{Table: table, Dst: ownDst}.Key()
			if err := f.failures()[k]; err == nil || err.Error() != want {
				t.Errorf("%s: %v, want %s", table, err, want)
			}
		}
		if len(f.failures()) != 3 {
			t.Errorf("%v", f.failures())
		}
		f.Allow("CreateRoute", f.vpc.Main.ID)
		f.run(2 * time.Minute)
		f.wantRoute(f.vpc.Main, ownDst, f.a.Interface())
	})
}

func TestFullTable(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.SetRouteLimit(5)
		for i := range 4 {
			f.check(f.vpc.Main.CreateRoute(cidr(fmt.Sprintf("10.9.%d.0/24", i)), f.b.Interface().ID))
		}
		f.desire(f.vpc.Main.ID, f.table.ID)
		f.run(20 * time.Minute)
		f.wantFailures(map[state.Kind]string{state.KindCloudRoute: "CreateRoute on " + f.vpc.Main.ID +
			`: RouteLimitExceeded: The maximum number of routes has been reached; the table has 5 routes of ` + family.String() + `, which is its limit: have the quota "Routes per route table" raised, or routes removed that nobody needs`})
		f.wantRoute(f.table, ownDst, f.a.Interface())
		if n := len(f.Calls("CreateRoute")); n < 4 || n > 8 {
			t.Errorf("%d calls in 20 minutes", n)
		}
		f.check(f.vpc.Main.DeleteRoute(cidr("10.9.1.0/24")))
		f.run(2 * time.Minute)
		f.wantFailures(nil)
		f.wantRoute(f.vpc.Main, ownDst, f.a.Interface())
	})
}

// What is there already needs no room: it is led here without waiting for some.
func TestRouteThatIsThereInAFullTable(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.SetRouteLimit(3)
		for i := range 2 {
			f.check(f.vpc.Main.CreateRoute(cidr(fmt.Sprintf("10.9.%d.0/24", i)), f.b.Interface().ID))
		}
		f.run(20 * time.Second)
		if len(f.failures()) != 1 {
			t.Errorf("failures: %v", f.failures())
		}
		f.check(f.vpc.Main.DeleteRoute(cidr("10.9.1.0/24")))
		f.check(f.vpc.Main.CreateRoute(ownDst.String(), f.b.Interface().ID))
		f.run(period + spread + again)
		f.wantFailures(nil)
		f.wantRoute(f.vpc.Main, ownDst, f.a.Interface())
	})
}

// What is told of a full table is how it is now, and not at the last look.
func TestFilledTable(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.Deny("CreateRoute")
		f.pass()
		f.Allow("CreateRoute")
		f.SetRouteLimit(3)
		for _, dst := range []string{cidr("10.9.1.0/24"), cidr("10.9.2.0/24")} {
			f.check(f.vpc.Main.CreateRoute(dst, f.b.Interface().ID))
		}
		time.Sleep(RetryFirst)
		f.pass()
		for _, err := range f.failures() {
			if !strings.Contains(err.Error(), "the table has 3 routes") {
				t.Error(err)
			}
		}
		if len(f.failures()) != 1 {
			t.Errorf("failures: %v", f.failures())
		}
	})
}

// The account has used up nearly all that it may.
func TestThrottled(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.SetLimit(fakeaws.Mutating, fakeaws.Limit{Burst: 1, Refill: 0.005})
		f.SetLimit(fakeaws.NonMutating, fakeaws.Limit{Burst: 1, Refill: 0.02})
		f.run(20 * time.Minute)
		f.wantFailures(nil)
		f.wantRoute(f.vpc.Main, ownDst, f.a.Interface())
		throttled := 0
		for _, c := range f.Calls() {
			if c.Code == "RequestLimitExceeded" {
				throttled++
			}
		}
		t.Logf("%d of %d calls throttled", throttled, len(f.Calls()))
		if throttled == 0 || len(f.Calls()) > 300 {
			t.Errorf("%d of %d calls throttled", throttled, len(f.Calls()))
		}
		f.ForgetCalls()
		f.SetLimit(fakeaws.NonMutating, fakeaws.Limit{})
		f.start(f.a)
		f.pass()
		time.Sleep(callTime)
		for _, c := range f.Calls() {
			if c.Action != "DescribeRouteTables" && c.Time.After(f.Calls()[0].Time) {
				t.Errorf("%s after a call was refused", c.Action)
			}
		}
	})
}

// Credentials that are rotated, or are revoked before their end, are read again.
func TestCredentials(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.SetCredentialsLifetime(time.Hour)
		f.run(5 * time.Hour)
		f.wantFailures(nil)
		for _, c := range f.Calls() {
			if c.Code != "" {
				t.Errorf("%+v", c)
			}
		}
		f.a.RevokeCredentials()
		f.check(f.vpc.Main.DeleteRoute(ownDst.String()))
		f.run(3 * time.Minute)
		f.wantFailures(nil)
		f.wantRoute(f.vpc.Main, ownDst, f.a.Interface())
	})
}

// A host without credentials says so, and takes those that come.
func TestNoRole(t *testing.T) {
	withFixture(t, func(f *fixture) {
		bare, err := f.RunInstance(f.a.Interface().Subnet, fakeaws.InstanceOptions{})
		f.check(err)
		f.a = bare
		f.start(bare)
		f.desire(f.vpc.Main.ID)
		f.run(callTime)
		for _, err := range f.failures() {
			if !strings.Contains(err.Error(), "the instance has no role that can be read") {
				t.Error(err)
			}
		}
		if len(f.failures()) != 2 || len(f.Calls()) != 0 {
			t.Errorf("%v; %v", f.failures(), f.Calls())
		}
	})
}

// Metadata that takes its time holds up nothing for long, and nothing is ready before.
func TestSlowMetadata(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.a.SetMetadata(fakeaws.MetadataOptions{TokensRequired: true, Delay: time.Hour})
		f.run(metadataTime)
		if len(f.failures()) != 2 {
			t.Errorf("a pass takes longer than %s: %v", metadataTime, f.failures())
		}
		f.run(3 * time.Minute)
		for k, err := range f.failures() {
			if !strings.HasPrefix(err.Error(), "the instance metadata service (IMDS) does not answer") {
				t.Errorf("%v: %v", k, err)
			}
		}
		if f.ready() {
			t.Error("ready, and nobody knows which instance this is")
		}
		f.a.SetMetadata(fakeaws.MetadataOptions{TokensRequired: true})
		f.run(2 * time.Minute)
		f.wantFailures(nil)
		f.wantRoute(f.vpc.Main, ownDst, f.a.Interface())
		if !f.ready() {
			t.Error("not ready")
		}
	})
}

// transport answers requests for tokens with a status of its own, if that is not 0.
type transport struct {
	http.RoundTripper
	status int
	v1     int // requests without a token
}

func (r *transport) RoundTrip(in *http.Request) (*http.Response, error) {
	if in.URL.Hostname() == fakeaws.MetadataAddr {
		if in.Method == http.MethodPut && r.status != 0 {
			return &http.Response{StatusCode: r.status, Body: http.NoBody, Header: http.Header{}, Request: in}, nil
		}
		if in.Method == http.MethodGet && in.Header.Get("X-Aws-Ec2-Metadata-Token") == "" {
			r.v1++
		}
	}
	return r.RoundTripper.RoundTrip(in)
}

// Version 1 of the metadata service is used where there is no version 2, and only
// there.
func TestMetadataVersion(t *testing.T) {
	for status, v1 := range map[int]bool{0: false, http.StatusNotFound: true, http.StatusMethodNotAllowed: true, http.StatusInternalServerError: false} {
		withFixture(t, func(f *fixture) {
			f.a.SetMetadata(fakeaws.MetadataOptions{})
			r := &transport{RoundTripper: f.Transport(f.a), status: status}
			f.start(f.a, config.WithHTTPClient(&http.Client{Transport: r}))
			f.run(2 * metadataTime)
			if works := len(f.failures()) == 0; works != (v1 || status == 0) || r.v1 > 0 != v1 {
				t.Errorf("with %d: %v, %d requests of version 1", status, f.failures(), r.v1)
			}
		})
	}
}

// An instance with the address and the lease of another one takes its routes over.
func TestReplacedInstance(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.pass()
		next, err := f.a.Replace()
		f.check(err)
		f.a = next
		f.start(next)
		f.ForgetCalls()
		f.pass()
		f.wantFailures(nil)
		f.wantRoute(f.vpc.Main, ownDst, next.Interface())
		f.wantCalls("DescribeRouteTables", "DescribeNetworkInterfaceAttribute", "ModifyNetworkInterfaceAttribute", "ReplaceRoute")
	})
}

func TestForeignAddress(t *testing.T) {
	withFixture(t, func(f *fixture) {
		host := netip.MustParseAddr("192.0.2.1")
		f.want = state.Set{}
		for _, o := range []state.Object{state.CloudInterface{Host: host}, state.CloudRoute{Table: f.vpc.Main.ID, Dst: ownDst, Host: host}} {
			f.want[o.Key()] = o
		}
		f.pass()
		for k, err := range f.failures() {
			if !strings.Contains(err.Error(), "192.0.2.1") || !strings.Contains(err.Error(), f.a.ID) {
				t.Errorf("%v: %v", k, err)
			}
		}
		if len(f.failures()) != 2 {
			t.Errorf("%v", f.failures())
		}
	})
}

// Credentials that are no good are not quoted.
func TestSecrets(t *testing.T) {
	env := map[string]string{"AWS_ACCESS_KEY": "AKIAEXAMPLE", "AWS_SECRET_KEY": "examplesecret", "AWS_SECURITY_TOKEN": "exampletoken"}
	withFixtureIn(t, env, func(f *fixture) {
		f.pass()
		if len(f.failures()) != 2 {
			t.Errorf("%v", f.failures())
		}
		for _, err := range f.failures() {
			if text := err.Error(); strings.Contains(text, "example") || strings.Contains(text, "EXAMPLE") || !strings.Contains(text, "AuthFailure") {
				t.Error(text)
			}
		}
		for _, c := range f.Calls() {
			if c.Code != "AuthFailure" {
				t.Errorf("%+v", c)
			}
		}
	})
}

func TestOldEnvironment(t *testing.T) {
	for _, c := range []struct {
		env  map[string]string
		want string
	}{
		{map[string]string{"AWS_ACCESS_KEY": "a", "AWS_SECRET_KEY": "s", "AWS_SECURITY_TOKEN": "t"}, "a s t"},
		{map[string]string{"AWS_ACCESS_KEY_ID": "b", "AWS_ACCESS_KEY": "a", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SECURITY_TOKEN": "t"}, "b s t"},
		{map[string]string{"AWS_ACCESS_KEY": "a", "AWS_SECRET_KEY": "s", "AWS_SECURITY_TOKEN": "t", "AWS_SESSION_TOKEN": "n"}, ""},
		{map[string]string{"AWS_ACCESS_KEY": "a", "AWS_SECRET_KEY": "s"}, ""}, // the SDK reads these
	} {
		got := ""
		if v, ok := oldEnvironment(func(name string) string { return c.env[name] }); ok {
			got = strings.Join([]string{v.AccessKeyID, v.SecretAccessKey, v.SessionToken}, " ")
		}
		if got != c.want {
			t.Errorf("%v: %q, want %q", c.env, got, c.want)
		}
	}
}
