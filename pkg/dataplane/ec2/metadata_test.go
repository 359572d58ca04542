package ec2

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"flanneld/pkg/lab/fakeaws"
)

// silence takes requests and answers none. Its patience is that of the client.
type silence time.Duration

func (s silence) RoundTrip(r *http.Request) (*http.Response, error) {
	select {
	case <-r.Context().Done():
		return nil, r.Context().Err()
	case <-time.After(time.Duration(s)):
		return nil, headerTimeout{}
	}
}

// headerTimeout is the error of a transport with a limit of its own.
type headerTimeout struct{}

func (headerTimeout) Error() string { return "net/http: timeout awaiting response headers" }

// That the metadata service does not answer is said in these words, whoever gives up first.
func TestSilentMetadata(t *testing.T) {
	for _, patience := range []time.Duration{500 * time.Millisecond, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			_, err := newMetadata(t.Context(), aws.Config{HTTPClient: &http.Client{Transport: silence(patience)}})
			if err == nil || !strings.HasPrefix(err.Error(), "the instance metadata service (IMDS) does not answer; ") {
				t.Errorf("with %s: %v", patience, err)
			}
		})
	}
}

// Metadata that stops to answer does not keep a route from being put back for long.
func TestMetadataStops(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.run(3 * time.Minute)
		f.a.SetMetadata(fakeaws.MetadataOptions{TokensRequired: true, Delay: time.Hour})
		f.check(f.vpc.Main.DeleteRoute(ownDst.String()))
		f.between(func() { f.anew, f.due = true, time.Now() })
		f.pass()
		f.run(metadataTime + 2*again)
		f.wantRoute(f.vpc.Main, ownDst, f.a.Interface())
	})
}
