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
		prepare func(*world) error
		want    func(*world) map[state.Kind]string
	}{
		"CreateRoute": {want: func(w *world) map[state.Kind]string {
			return map[state.Kind]string{state.KindCloudRoute: "CreateRoute on " + w.vpc.Main.ID + ": UnauthorizedOperation: the credentials lack the permission ec2:CreateRoute"}
		}},
		"ReplaceRoute": {
			prepare: func(w *world) error { return w.vpc.Main.CreateRoute(ownDst.String(), w.b.Interface().ID) },
			want: func(w *world) map[state.Kind]string {
				return map[state.Kind]string{state.KindCloudRoute: "ReplaceRoute on " + w.vpc.Main.ID + ": UnauthorizedOperation: the credentials lack the permission ec2:ReplaceRoute"}
			},
		},
		"DeleteRoute": {
			prepare: func(w *world) error {
				gone, err := w.RunInstance(w.b.Interface().Subnet, fakeaws.InstanceOptions{})
				if err == nil {
					err = w.vpc.Main.CreateRoute("10.1.7.0/24", gone.Interface().ID)
					gone.Terminate()
				}
				return err
			},
			want: func(w *world) map[state.Kind]string {
				return map[state.Kind]string{state.KindCloudRoute: "DeleteRoute on " + w.vpc.Main.ID + ": UnauthorizedOperation: the credentials lack the permission ec2:DeleteRoute"}
			},
		},
		"ModifyNetworkInterfaceAttribute": {want: func(w *world) map[state.Kind]string {
			return map[state.Kind]string{state.KindCloudInterface: check + "ModifyNetworkInterfaceAttribute on " + w.a.Interface().ID + ": UnauthorizedOperation: the credentials lack the permission ec2:ModifyNetworkInterfaceAttribute"}
		}},
		// What can't be seen is set all the same.
		"DescribeNetworkInterfaceAttribute": {want: func(*world) map[state.Kind]string { return nil }},
		"DescribeRouteTables": {want: func(w *world) map[state.Kind]string {
			return map[state.Kind]string{state.KindCloudRoute: "route table " + w.vpc.Main.ID + " is not known: DescribeRouteTables on route table " + w.vpc.Main.ID + ": UnauthorizedOperation: the credentials lack the permission ec2:DescribeRouteTables"}
		}},
	} {
		t.Run(action, func(t *testing.T) {
			inWorld(t, func(w *world) {
				if c.prepare != nil {
					w.check(c.prepare(w))
				}
				w.Deny(action)
				w.run(3 * time.Minute)
				w.wantFailures(c.want(w))
				if n := len(w.Calls(action)); n == 0 || n > 15 {
					t.Errorf("%d calls that are denied in 3 minutes", n)
				}
				w.Allow(action)
				w.run(2 * time.Minute)
				w.wantFailures(nil)
				w.wantRoute(w.vpc.Main, ownDst, w.a.Interface())
				if len(w.vpc.Main.Routes()) != 2 || w.a.Interface().SourceDestCheck() {
					t.Errorf("%v, check %v", w.vpc.Main.Routes(), w.a.Interface().SourceDestCheck())
				}
			})
		})
	}
}

// Whether packets of others pass can't be seen, and they do not while the routes are
// there: it is set all the same.
func TestHiddenCheck(t *testing.T) {
	inWorld(t, func(w *world) {
		w.check(w.vpc.Main.CreateRoute(ownDst.String(), w.a.Interface().ID))
		w.Deny("DescribeNetworkInterfaceAttribute")
		w.run(time.Minute)
		w.wantFailures(nil)
		if w.a.Interface().SourceDestCheck() {
			t.Error("the check is on")
		}
		if calls := w.Calls("ModifyNetworkInterfaceAttribute"); len(calls) != 1 {
			t.Errorf("%v", calls)
		}
	})
}

// A table that may not be changed, or is not there, is no matter to another one.
func TestTwoTables(t *testing.T) {
	inWorld(t, func(w *world) {
		const none, noneEither = "rtb-0123456789abcdef0", "rtb-0123456789abcdef1"
		w.desire(w.vpc.Main.ID, w.table.ID, none, noneEither)
		w.Deny("CreateRoute", w.vpc.Main.ID)
		w.run(3 * time.Minute)
		w.wantRoute(w.table, ownDst, w.a.Interface())
		for table, want := range map[string]string{
			w.vpc.Main.ID: "CreateRoute on " + w.vpc.Main.ID + ": UnauthorizedOperation: the credentials lack the permission ec2:CreateRoute",
			none:          "route table " + none + " is not known: there is no route table " + none + " in this region",
			noneEither:    "route table " + noneEither + " is not known: there is no route table " + noneEither + " in this region",
		} {
			k := state.CloudRoute{Table: table, Dst: ownDst}.Key()
			if err := w.failures()[k]; err == nil || err.Error() != want {
				t.Errorf("%s: %v, want %s", table, err, want)
			}
		}
		if len(w.failures()) != 3 {
			t.Errorf("%v", w.failures())
		}
		w.Allow("CreateRoute", w.vpc.Main.ID)
		w.run(2 * time.Minute)
		w.wantRoute(w.vpc.Main, ownDst, w.a.Interface())
	})
}

func TestFullTable(t *testing.T) {
	inWorld(t, func(w *world) {
		w.SetRouteLimit(5)
		for i := range 4 {
			w.check(w.vpc.Main.CreateRoute(fmt.Sprintf("10.9.%d.0/24", i), w.b.Interface().ID))
		}
		w.desire(w.vpc.Main.ID, w.table.ID)
		w.run(20 * time.Minute)
		w.wantFailures(map[state.Kind]string{state.KindCloudRoute: "CreateRoute on " + w.vpc.Main.ID +
			`: RouteLimitExceeded: The maximum number of routes has been reached; the table has 5 routes, which is its limit: have the quota "Routes per route table" raised, or routes removed that nobody needs`})
		w.wantRoute(w.table, ownDst, w.a.Interface())
		if n := len(w.Calls("CreateRoute")); n < 4 || n > 8 {
			t.Errorf("%d calls in 20 minutes", n)
		}
		w.check(w.vpc.Main.DeleteRoute("10.9.1.0/24"))
		w.run(2 * time.Minute)
		w.wantFailures(nil)
		w.wantRoute(w.vpc.Main, ownDst, w.a.Interface())
	})
}

// What is told of a full table is how it is now, and not at the last look.
func TestFilledTable(t *testing.T) {
	inWorld(t, func(w *world) {
		w.Deny("CreateRoute")
		w.pass()
		w.Allow("CreateRoute")
		w.SetRouteLimit(3)
		for _, dst := range []string{"10.9.1.0/24", "10.9.2.0/24"} {
			w.check(w.vpc.Main.CreateRoute(dst, w.b.Interface().ID))
		}
		time.Sleep(RetryFirst)
		w.pass()
		for _, err := range w.failures() {
			if !strings.Contains(err.Error(), "the table has 3 routes") {
				t.Error(err)
			}
		}
		if len(w.failures()) != 1 {
			t.Errorf("failures: %v", w.failures())
		}
	})
}

// The account has used up nearly all that it may.
func TestThrottled(t *testing.T) {
	inWorld(t, func(w *world) {
		w.SetLimit(fakeaws.Mutating, fakeaws.Limit{Burst: 1, Refill: 0.005})
		w.SetLimit(fakeaws.NonMutating, fakeaws.Limit{Burst: 1, Refill: 0.02})
		w.run(20 * time.Minute)
		w.wantFailures(nil)
		w.wantRoute(w.vpc.Main, ownDst, w.a.Interface())
		throttled := 0
		for _, c := range w.Calls() {
			if c.Code == "RequestLimitExceeded" {
				throttled++
			}
		}
		t.Logf("%d of %d calls throttled", throttled, len(w.Calls()))
		if throttled == 0 || len(w.Calls()) > 300 {
			t.Errorf("%d of %d calls throttled", throttled, len(w.Calls()))
		}
		w.ForgetCalls()
		w.SetLimit(fakeaws.NonMutating, fakeaws.Limit{})
		w.start(w.a)
		w.pass()
		time.Sleep(callTime)
		for _, c := range w.Calls() {
			if c.Action != "DescribeRouteTables" && c.Time.After(w.Calls()[0].Time) {
				t.Errorf("%s after a call was refused", c.Action)
			}
		}
	})
}

// Credentials that are rotated, or are revoked before their end, are read again.
func TestCredentials(t *testing.T) {
	inWorld(t, func(w *world) {
		w.SetCredentialsLifetime(time.Hour)
		w.run(5 * time.Hour)
		w.wantFailures(nil)
		for _, c := range w.Calls() {
			if c.Code != "" {
				t.Errorf("%+v", c)
			}
		}
		w.a.RevokeCredentials()
		w.check(w.vpc.Main.DeleteRoute(ownDst.String()))
		w.run(3 * time.Minute)
		w.wantFailures(nil)
		w.wantRoute(w.vpc.Main, ownDst, w.a.Interface())
	})
}

// A host without credentials says so, and takes those that come.
func TestNoRole(t *testing.T) {
	inWorld(t, func(w *world) {
		bare, err := w.RunInstance(w.a.Interface().Subnet, fakeaws.InstanceOptions{})
		w.check(err)
		w.a = bare
		w.start(bare)
		w.desire(w.vpc.Main.ID)
		w.run(callTime)
		for _, err := range w.failures() {
			if !strings.Contains(err.Error(), "the instance has no role that can be read") {
				t.Error(err)
			}
		}
		if len(w.failures()) != 2 || len(w.Calls()) != 0 {
			t.Errorf("%v; %v", w.failures(), w.Calls())
		}
	})
}

// Metadata that takes its time holds up nothing for long, and nothing is ready before.
func TestSlowMetadata(t *testing.T) {
	inWorld(t, func(w *world) {
		w.a.SetMetadata(fakeaws.MetadataOptions{TokensRequired: true, Delay: time.Hour})
		w.run(metadataTime)
		if len(w.failures()) != 2 {
			t.Errorf("a pass takes longer than %s: %v", metadataTime, w.failures())
		}
		w.run(3 * time.Minute)
		for k, err := range w.failures() {
			if !strings.HasPrefix(err.Error(), "the instance metadata service (IMDS) does not answer") {
				t.Errorf("%v: %v", k, err)
			}
		}
		if w.ready() {
			t.Error("ready, and nobody knows which instance this is")
		}
		w.a.SetMetadata(fakeaws.MetadataOptions{TokensRequired: true})
		w.run(2 * time.Minute)
		w.wantFailures(nil)
		w.wantRoute(w.vpc.Main, ownDst, w.a.Interface())
		if !w.ready() {
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
		inWorld(t, func(w *world) {
			w.a.SetMetadata(fakeaws.MetadataOptions{})
			r := &transport{RoundTripper: w.Transport(w.a), status: status}
			w.start(w.a, config.WithHTTPClient(&http.Client{Transport: r}))
			w.run(2 * metadataTime)
			if works := len(w.failures()) == 0; works != (v1 || status == 0) || r.v1 > 0 != v1 {
				t.Errorf("with %d: %v, %d requests of version 1", status, w.failures(), r.v1)
			}
		})
	}
}

// An instance with the address and the lease of another one takes its routes over.
func TestReplacedInstance(t *testing.T) {
	inWorld(t, func(w *world) {
		w.pass()
		next, err := w.a.Replace()
		w.check(err)
		w.a = next
		w.start(next)
		w.ForgetCalls()
		w.pass()
		w.wantFailures(nil)
		w.wantRoute(w.vpc.Main, ownDst, next.Interface())
		w.wantCalls("DescribeRouteTables", "DescribeNetworkInterfaceAttribute", "ModifyNetworkInterfaceAttribute", "ReplaceRoute")
	})
}

func TestForeignAddress(t *testing.T) {
	inWorld(t, func(w *world) {
		host := netip.MustParseAddr("192.0.2.1")
		w.want = state.Set{}
		for _, o := range []state.Object{state.CloudInterface{Host: host}, state.CloudRoute{Table: w.vpc.Main.ID, Dst: ownDst, Host: host}} {
			w.want[o.Key()] = o
		}
		w.pass()
		for k, err := range w.failures() {
			if !strings.Contains(err.Error(), "192.0.2.1") || !strings.Contains(err.Error(), w.a.ID) {
				t.Errorf("%v: %v", k, err)
			}
		}
		if len(w.failures()) != 2 {
			t.Errorf("%v", w.failures())
		}
	})
}

// Credentials that are no good are not quoted.
func TestSecrets(t *testing.T) {
	env := map[string]string{"AWS_ACCESS_KEY": "AKIAEXAMPLE", "AWS_SECRET_KEY": "examplesecret", "AWS_SECURITY_TOKEN": "exampletoken"}
	inWorldWith(t, env, func(w *world) {
		w.pass()
		if len(w.failures()) != 2 {
			t.Errorf("%v", w.failures())
		}
		for _, err := range w.failures() {
			if text := err.Error(); strings.Contains(text, "example") || strings.Contains(text, "EXAMPLE") || !strings.Contains(text, "AuthFailure") {
				t.Error(text)
			}
		}
		for _, c := range w.Calls() {
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
