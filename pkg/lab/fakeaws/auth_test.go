package fakeaws_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/pkg/lab/fakeaws"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	signer "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// errorDocument is how EC2 tells of an error.
type errorDocument struct {
	XMLName xml.Name `xml:"Response"`
	Errors  []struct {
		Code    string `xml:"Code"`
		Message string `xml:"Message"`
	} `xml:"Errors>Error"`
	RequestID string `xml:"RequestID"`
}

// signed is what is varied of a signed request.
type signed struct {
	user            fakeaws.Credentials
	region, service string
	at              time.Time
	action          string
	change          func(*http.Request) // after it was signed
}

// send signs and sends a request by hand. It returns the status and the code of
// the error.
func (w *fixture) send(t *testing.T, s signed) (status int, code string) {
	t.Helper()
	body := url.Values{"Action": {s.action}, "Version": {"2016-11-15"}}.Encode()
	r := must(http.NewRequestWithContext(t.Context(), http.MethodPost, "http://ec2.test/", strings.NewReader(body)))(t)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	sum := sha256.Sum256([]byte(body))
	check(t, signer.NewSigner().SignHTTP(t.Context(), aws.Credentials{
		AccessKeyID: s.user.AccessKeyID, SecretAccessKey: s.user.SecretAccessKey, SessionToken: s.user.SessionToken,
	}, r, hex.EncodeToString(sum[:]), s.service, s.region, s.at))
	if s.change != nil {
		s.change(r)
	}
	answer, err := w.Transport(nil).RoundTrip(r)
	check(t, err)
	defer answer.Body.Close()
	text := must(io.ReadAll(answer.Body))(t)
	if answer.StatusCode == http.StatusOK {
		return answer.StatusCode, ""
	}
	var failed errorDocument
	if err := xml.Unmarshal(text, &failed); err != nil || len(failed.Errors) != 1 || failed.RequestID == "" {
		t.Fatalf("%v in %s", err, text)
	}
	return answer.StatusCode, failed.Errors[0].Code
}

func TestSignatures(t *testing.T) {
	now := time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)
	w := newFixture(t, fakeaws.Options{Clock: func() time.Time { return now }, Region: "us-east-1"})
	for _, tt := range []struct {
		name   string
		change func(*signed)
		status int
		code   string
	}{
		{"good", func(*signed) {}, 200, ""},
		{"wrong secret", func(s *signed) { s.user.SecretAccessKey += "x" }, 401, "AuthFailure"},
		{"unknown key", func(s *signed) { s.user.AccessKeyID = "AKIA0" }, 401, "AuthFailure"},
		{"token of nobody", func(s *signed) { s.user.SessionToken = "x" }, 401, "AuthFailure"},
		{"other region", func(s *signed) { s.region = "us-west-1" }, 401, "AuthFailure"},
		{"other service", func(s *signed) { s.service = "s3" }, 401, "AuthFailure"},
		{"14 minutes slow", func(s *signed) { s.at = now.Add(-14 * time.Minute) }, 200, ""},
		{"16 minutes slow", func(s *signed) { s.at = now.Add(-16 * time.Minute) }, 400, "RequestExpired"},
		{"16 minutes fast", func(s *signed) { s.at = now.Add(16 * time.Minute) }, 400, "RequestExpired"},
		{"other host", func(s *signed) { s.change = func(r *http.Request) { r.Host = "ec2.other" } }, 401, "AuthFailure"},
		{"other query", func(s *signed) { s.change = func(r *http.Request) { r.URL.RawQuery = "a=b" } }, 401, "AuthFailure"},
		{"other body", func(s *signed) {
			s.change = func(r *http.Request) {
				r.Body = io.NopCloser(strings.NewReader("Action=DescribeSubnets&Version=2016-11-15"))
			}
		}, 401, "AuthFailure"},
		{"header that is not signed", func(s *signed) {
			s.change = func(r *http.Request) { r.Header.Set("X-Amz-Target", "x") }
		}, 401, "AuthFailure"},
		{"not signed", func(s *signed) {
			s.change = func(r *http.Request) { r.Header.Del("Authorization") }
		}, 400, "MissingParameter"},
		{"no date", func(s *signed) {
			s.change = func(r *http.Request) { r.Header.Del("X-Amz-Date") }
		}, 400, "IncompleteSignature"},
		{"garbage", func(s *signed) {
			s.change = func(r *http.Request) { r.Header.Set("Authorization", "AWS4-HMAC-SHA256 x") }
		}, 400, "IncompleteSignature"},
		{"unknown action", func(s *signed) { s.action = "Reboot" }, 400, "InvalidAction"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := signed{user: w.user, region: "us-east-1", service: "ec2", at: now, action: "DescribeVpcs"}
			tt.change(&s)
			if status, code := w.send(t, s); status != tt.status || code != tt.code {
				t.Errorf("got %d %s, want %d %s", status, code, tt.status, tt.code)
			}
		})
	}
}

func TestDenied(t *testing.T) {
	w := newFixture(t, fakeaws.Options{})
	ctx, c := t.Context(), w.client()
	nic := w.a.Interface().ID
	w.Deny("CreateRoute", w.table.ID)
	w.Deny("DescribeRouteTables")
	err := createRoute(ctx, c, w.table, "10.1.5.0/24", nic)
	wantError(t, err, "UnauthorizedOperation", "")
	for _, want := range []string{
		"arn:aws:iam::123456789012:user/admin is not authorized to perform: ec2:CreateRoute on resource: " +
			"arn:aws:ec2:eu-central-1:123456789012:route-table/" + w.table.ID,
		"Encoded authorization failure message: ",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %q", want, err)
		}
	}
	if again := createRoute(ctx, c, w.table, "10.1.5.0/24", nic); message(t, again) == message(t, err) {
		t.Errorf("twice the same: %v", again)
	}
	check(t, createRoute(ctx, c, w.vpc.Main, "10.1.5.0/24", nic))
	_, err = c.DescribeRouteTables(ctx, &ec2.DescribeRouteTablesInput{})
	wantError(t, err, "UnauthorizedOperation", "You are not authorized to perform this operation. "+
		"User: arn:aws:iam::123456789012:user/admin is not authorized to perform: ec2:DescribeRouteTables "+
		"because no identity-based policy allows the ec2:DescribeRouteTables action")
	if len(w.table.Routes()) != 1 {
		t.Errorf("routes %+v", w.table.Routes())
	}
	w.Allow("CreateRoute", w.table.ID)
	check(t, createRoute(ctx, c, w.table, "10.1.5.0/24", nic))
	_, err = c.CreateRoute(ctx, &ec2.CreateRouteInput{
		RouteTableId: &w.table.ID, DestinationCidrBlock: aws.String("10.1.6.0/24"), NetworkInterfaceId: &nic, DryRun: aws.Bool(true),
	})
	wantError(t, err, "DryRunOperation", "")

	calls := w.Calls("CreateRoute")
	var codes []string
	for _, call := range calls {
		codes = append(codes, call.Code)
	}
	if got := strings.Join(codes, ","); got != "UnauthorizedOperation,UnauthorizedOperation,,,DryRunOperation" {
		t.Errorf("calls with the codes %q", got)
	}
	if call := calls[2]; call.Form.Get("RouteTableId") != w.vpc.Main.ID || call.AccessKeyID != w.user.AccessKeyID {
		t.Errorf("call %+v", call)
	}
	if n := len(w.Calls()); n != 6 {
		t.Errorf("%d calls", n)
	}
}

func TestThrottling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFixture(t, fakeaws.Options{})
		ctx, c := t.Context(), w.client()
		limited := func(do func() error) (n int) {
			t.Helper()
			for {
				if err := do(); err != nil {
					wantError(t, err, "RequestLimitExceeded", "Request limit exceeded.")
					return n
				}
				n++
			}
		}
		filtered := func() error {
			_, err := c.DescribeInstances(ctx, &ec2.DescribeInstancesInput{Filters: []types.Filter{filter("vpc-id", w.vpc.ID)}})
			return err
		}
		all := func() error {
			_, err := c.DescribeInstances(ctx, &ec2.DescribeInstancesInput{})
			return err
		}
		check(t, w.table.CreateRoute("10.1.5.0/24", w.a.Interface().ID))
		mutate := func() error { return replaceRoute(ctx, c, w.table, "10.1.5.0/24", w.b.Interface().ID) }
		for _, tt := range []struct {
			name          string
			do            func() error
			burst, second int
		}{{"filtered", filtered, 100, 20}, {"all", all, 50, 10}, {"mutating", mutate, 50, 5}} {
			if got := limited(tt.do); got != tt.burst {
				t.Errorf("%s: %d at once, want %d", tt.name, got, tt.burst)
			}
			time.Sleep(time.Second)
			if got := limited(tt.do); got != tt.second {
				t.Errorf("%s: %d after a second, want %d", tt.name, got, tt.second)
			}
		}
		w.SetLimit(fakeaws.Mutating, fakeaws.Limit{Burst: 2, Refill: 1})
		if got := limited(mutate); got != 2 {
			t.Errorf("%d changes, want 2", got)
		}
	})
}

// The SDK's adaptive mode slows down so far that all calls succeed. That takes
// real time: on a clock that stands still between timers its limiter waits for
// nothing, forever.
func TestAdaptiveRetry(t *testing.T) {
	w := newFixture(t, fakeaws.Options{})
	w.SetLimit(fakeaws.Mutating, fakeaws.Limit{Burst: 5, Refill: 10})
	c := w.client(func(o *ec2.Options) {
		o.Retryer = retry.NewAdaptiveMode(func(o *retry.AdaptiveModeOptions) {
			o.StandardOptions = append(o.StandardOptions, func(o *retry.StandardOptions) { o.MaxAttempts = 10 })
		})
	})
	check(t, w.table.CreateRoute("10.1.5.0/24", w.a.Interface().ID))
	const calls = 15
	start := time.Now()
	for range calls {
		check(t, replaceRoute(t.Context(), c, w.table, "10.1.5.0/24", w.b.Interface().ID))
	}
	if took := time.Since(start); took < (calls-5)*time.Second/10 {
		t.Errorf("%d calls took %s, less than the bucket gives", calls, took)
	}
	throttled := 0
	for _, call := range w.Calls("ReplaceRoute") {
		if call.Code == "RequestLimitExceeded" {
			throttled++
		}
	}
	if throttled == 0 {
		t.Error("nothing was throttled")
	}
}

// A client on an instance signs with the credentials of the metadata, and takes
// the next ones before they end.
func TestRotatedCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFixture(t, fakeaws.Options{})
		w.SetCredentialsLifetime(time.Hour)
		w.a.SetMetadata(fakeaws.MetadataOptions{TokensRequired: true})
		c := onInstance(t, w)
		describe := func() error {
			_, err := c.DescribeSubnets(context.Background(), &ec2.DescribeSubnetsInput{})
			return err
		}
		for range 40 {
			check(t, describe())
			time.Sleep(7 * time.Minute)
		}
		keys := map[string]bool{}
		for _, call := range w.Calls() {
			keys[call.AccessKeyID] = true
		}
		if len(keys) < 4 || len(keys) > 8 { // in 4 h 40 min
			t.Errorf("%d different credentials", len(keys))
		}
		w.a.RevokeCredentials()
		wantError(t, describe(), "RequestExpired", "Request has expired.")
	})
}

// onInstance is a client that runs on a, and finds all it needs by itself.
func onInstance(t *testing.T, w *fixture) *ec2.Client {
	t.Helper()
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_CA_BUNDLE", "AWS_REGION", "AWS_DEFAULT_REGION"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_EC2_METADATA_DISABLED", "false")
	t.Setenv("AWS_CONFIG_FILE", "/dev/null")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
	client := &http.Client{Transport: w.Transport(w.a)}
	cfg, err := config.LoadDefaultConfig(t.Context(), config.WithHTTPClient(client),
		config.WithEC2IMDSRegion(func(o *config.UseEC2IMDSRegion) { // it does not take the client above
			o.Client = imds.New(imds.Options{HTTPClient: client})
		}))
	check(t, err)
	if cfg.Region != w.Region {
		t.Fatalf("the region is %q", cfg.Region)
	}
	return ec2.NewFromConfig(cfg, func(o *ec2.Options) {
		o.BaseEndpoint, o.Retryer = aws.String("http://ec2.test"), aws.NopRetryer{}
	})
}
