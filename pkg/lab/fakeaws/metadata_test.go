package fakeaws_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/pkg/lab/fakeaws"

	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
)

// metadata sends a request to the metadata of a, with the header lines given as
// name and value in turn.
func (w *fixture) metadata(t *testing.T, method, path string, header ...string) (status int, text string) {
	t.Helper()
	r := must(http.NewRequestWithContext(t.Context(), method, "http://169.254.169.254"+path, nil))(t)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	answer, err := w.Transport(w.a).RoundTrip(r)
	check(t, err)
	defer answer.Body.Close()
	return answer.StatusCode, string(must(io.ReadAll(answer.Body))(t))
}

func TestDocuments(t *testing.T) {
	w := newFixture(t, fakeaws.Options{})
	nic, second := w.a.Interface(), must(w.a.Attach(w.second, netip.Addr{}))(t)
	macs := "/latest/meta-data/network/interfaces/macs/"
	for path, want := range map[string]string{
		"/latest/meta-data/instance-id":                 w.a.ID,
		"/latest/meta-data/local-ipv4":                  "10.0.1.4",
		"/latest/meta-data/mac":                         nic.MAC.String(),
		"/latest/meta-data/placement/availability-zone": "eu-central-1a",
		"/latest/meta-data/placement/region":            "eu-central-1",
		macs:                                            nic.MAC.String() + "/\n" + second.MAC.String() + "/",
		macs + nic.MAC.String() + "/interface-id":       nic.ID,
		macs + nic.MAC.String() + "/device-number":      "0",
		macs + second.MAC.String() + "/device-number":   "1",
		macs + second.MAC.String() + "/local-ipv4s":     "10.0.2.5",
		macs + second.MAC.String() + "/subnet-id":       w.second.ID,
		macs + second.MAC.String() + "/vpc-id":          w.vpc.ID,
		"/latest/meta-data/iam/security-credentials/":   "node",
		"/latest/meta-data/placement/":                  "availability-zone\nregion",
	} {
		if status, text := w.metadata(t, http.MethodGet, path); status != http.StatusOK || text != want {
			t.Errorf("%s: %d %q, want %q", path, status, text, want)
		}
	}
	for _, path := range []string{"/", "/latest/meta-data/none", "/latest/meta-data/iam/security-credentials/other"} {
		if status, _ := w.metadata(t, http.MethodGet, path); status != http.StatusNotFound {
			t.Errorf("%s: %d", path, status)
		}
	}
	w.a.SetRole("")
	if status, _ := w.metadata(t, http.MethodGet, "/latest/meta-data/iam/security-credentials/"); status != http.StatusNotFound {
		t.Errorf("without a role there are credentials: %d", status)
	}
	w.a.SetRole("other")
	if _, text := w.metadata(t, http.MethodGet, "/latest/meta-data/iam/security-credentials/other"); !strings.Contains(text, `"Code": "Success"`) {
		t.Errorf("the credentials of the other role are %q", text)
	}
	var identity struct{ InstanceID, Region, PrivateIP, AvailabilityZone string }
	_, text := w.metadata(t, http.MethodGet, "/latest/dynamic/instance-identity/document")
	check(t, json.Unmarshal([]byte(text), &identity))
	if identity.InstanceID != w.a.ID || identity.Region != "eu-central-1" || identity.PrivateIP != "10.0.1.4" {
		t.Errorf("identity %s", text)
	}
	check(t, second.Detach())
	if status, _ := w.metadata(t, http.MethodGet, macs+second.MAC.String()+"/vpc-id"); status != http.StatusNotFound {
		t.Error("the metadata has an interface that was detached")
	}
}

func TestTokens(t *testing.T) {
	now := time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)
	w := newFixture(t, fakeaws.Options{Clock: func() time.Time { return now }})
	const document, ttl = "/latest/meta-data/instance-id", "X-aws-ec2-metadata-token-ttl-seconds"
	want := func(want int, method, path string, header ...string) string {
		t.Helper()
		status, text := w.metadata(t, method, path, header...)
		if status != want {
			t.Errorf("%s %s %q: %d, want %d", method, path, header, status, want)
		}
		return text
	}
	want(http.StatusOK, "GET", document)
	w.a.SetMetadata(fakeaws.MetadataOptions{TokensRequired: true})
	want(http.StatusUnauthorized, "GET", document)
	want(http.StatusBadRequest, "PUT", "/latest/api/token")
	want(http.StatusBadRequest, "PUT", "/latest/api/token", ttl, "21601")
	want(http.StatusMethodNotAllowed, "GET", "/latest/api/token", ttl, "60")
	want(http.StatusForbidden, "PUT", "/latest/api/token", ttl, "60", "X-Forwarded-For", "10.0.0.1")
	token := want(http.StatusOK, "PUT", "/latest/api/token", ttl, "60")
	const tokenHeader = "X-aws-ec2-metadata-token"
	if text := want(http.StatusOK, "GET", document, tokenHeader, token); text != w.a.ID {
		t.Errorf("got %q", text)
	}
	want(http.StatusUnauthorized, "GET", document, tokenHeader, token+"x")
	want(http.StatusMethodNotAllowed, "POST", document, tokenHeader, token)
	now = now.Add(time.Minute)
	want(http.StatusUnauthorized, "GET", document, tokenHeader, token)
	w.a.SetMetadata(fakeaws.MetadataOptions{Disabled: true})
	want(http.StatusForbidden, "GET", document)
}

// The SDK's client, with and without tokens, and when the answers are slow.
func TestMetadataClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFixture(t, fakeaws.Options{})
		client := func() *imds.Client {
			return imds.New(imds.Options{HTTPClient: &http.Client{Transport: w.Transport(w.a)}})
		}
		get := func(ctx context.Context, path string) (string, error) {
			out, err := client().GetMetadata(ctx, &imds.GetMetadataInput{Path: path})
			if err != nil {
				return "", err
			}
			defer out.Content.Close()
			text, err := io.ReadAll(out.Content)
			return string(text), err
		}
		for _, required := range []bool{false, true} {
			w.a.SetMetadata(fakeaws.MetadataOptions{TokensRequired: required})
			if id := must(get(t.Context(), "instance-id"))(t); id != w.a.ID {
				t.Errorf("the instance is %q", id)
			}
		}
		document := must(client().GetInstanceIdentityDocument(t.Context(), nil))(t)
		if document.InstanceID != w.a.ID || document.Region != w.Region {
			t.Errorf("identity %+v", document)
		}
		w.a.SetMetadata(fakeaws.MetadataOptions{Delay: 2 * time.Second})
		start := time.Now()
		if id := must(get(t.Context(), "instance-id"))(t); id != w.a.ID || time.Since(start) != 4*time.Second {
			t.Errorf("the instance is %q after %s", id, time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := get(ctx, "instance-id"); !errors.Is(err, context.DeadlineExceeded) && !strings.Contains(err.Error(), "deadline") {
			t.Errorf("got %v", err)
		}
	})
}

// The metadata has new credentials before the last ones end, which stay good until
// then.
func TestCredentialsOverlap(t *testing.T) {
	start := time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)
	now := start
	w := newFixture(t, fakeaws.Options{Clock: func() time.Time { return now }})
	read := func() (c struct{ AccessKeyID, SecretAccessKey, Token, Expiration string }) {
		t.Helper()
		_, text := w.metadata(t, http.MethodGet, "/latest/meta-data/iam/security-credentials/node")
		check(t, json.Unmarshal([]byte(text), &c))
		return c
	}
	first := read()
	if want := start.Add(6 * time.Hour).Format(time.RFC3339); first.Expiration != want {
		t.Errorf("they end %s, want %s", first.Expiration, want)
	}
	send := func() string {
		t.Helper()
		_, code := w.send(t, signed{region: w.Region, service: "ec2", at: now, action: "DescribeVpcs", user: fakeaws.Credentials{
			AccessKeyID: first.AccessKeyID, SecretAccessKey: first.SecretAccessKey, SessionToken: first.Token,
		}})
		return code
	}
	for _, tt := range []struct {
		after time.Duration
		same  bool
		code  string
	}{
		{0, true, ""},
		{5*time.Hour + 44*time.Minute, true, ""},
		{5*time.Hour + 46*time.Minute, false, ""},
		{6*time.Hour - time.Second, false, ""},
		{6 * time.Hour, false, "RequestExpired"},
	} {
		now = start.Add(tt.after)
		if same, code := read() == first, send(); same != tt.same || code != tt.code {
			t.Errorf("after %s: the same %t, %q", tt.after, same, code)
		}
	}
}
