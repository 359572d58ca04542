package etcdv2

import (
	"context"
	"encoding/json"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// Guarded implements etcd.Store. A server with users serves guests, too, unless their
// role was taken away.
func (s *Store) Guarded(ctx context.Context) (guarded bool, err error) {
	err = s.failover.Do(ctx, false, func(ctx context.Context, k int) error {
		guarded, err = s.guarded(ctx, s.endpoints[k])
		return err
	})
	return guarded, err
}

func (s *Store) guarded(ctx context.Context, e endpoint) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	resp, body, err := e.client.Do(ctx, authStatus{}) //nolint:bodyclose // it has been read and closed
	if err != nil {
		return false, s.explain(e, err)
	}
	var status struct{ Enabled bool }
	if resp.StatusCode != http.StatusOK || json.Unmarshal(body, &status) != nil || !status.Enabled {
		return false, nil // what is not known to be guarded is not
	}
	if s.options.CertFile != "" {
		return true, nil // by its certificate this host may be a user, so it cannot be a guest
	}
	// A guest who may write is asked to delete what nobody ever wrote.
	never := url.Values{"prevIndex": {strconv.FormatUint(math.MaxUint64, 10)}}
	for _, key := range []string{s.configKey(), s.subnetsKey() + "/0.0.0.0-0"} {
		resp, _, err := e.guest.Do(ctx, request{method: http.MethodDelete, key: key, query: never}) //nolint:bodyclose // as above
		if err != nil {
			return false, s.explain(e, err)
		}
		if resp.StatusCode != http.StatusUnauthorized && resp.StatusCode != http.StatusForbidden {
			return false, nil
		}
	}
	return true, nil
}

// authStatus is the request for whether a server has users.
type authStatus struct{}

// HTTPRequest makes authStatus an action of the client library.
func (authStatus) HTTPRequest(ep url.URL) *http.Request {
	ep.Path = strings.TrimSuffix(ep.Path, "/") + "/v2/auth/enable"
	ep.RawPath = ""
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, ep.String(), nil)
	if err != nil {
		return nil // an error of the library's then
	}
	return req
}
