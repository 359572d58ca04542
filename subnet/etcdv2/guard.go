package etcdv2

import (
	"context"
	"encoding/json"
	"math"
	"net/http"
	"net/url"
	"strconv"
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
	a, err := e.exchange(ctx, "/v2/auth/enable", request{method: http.MethodGet})
	if err != nil {
		return false, s.explain(e, err)
	}
	var status struct{ Enabled bool }
	if a.status != http.StatusOK || json.Unmarshal(a.body, &status) != nil || !status.Enabled {
		return false, nil // what is not known to be guarded is not
	}
	if s.options.CertFile != "" {
		return true, nil // by its certificate this host may be a user, so it cannot be a guest
	}
	// A guest who may write is asked to delete what nobody ever wrote.
	guest := e
	guest.Username = ""
	never := url.Values{"prevIndex": {strconv.FormatUint(math.MaxUint64, 10)}}
	for _, key := range []string{s.configKey(), s.subnetsKey() + "/0.0.0.0-0"} {
		a, err := guest.exchange(ctx, keysAPI+key, request{method: http.MethodDelete, query: never})
		if err != nil {
			return false, s.explain(e, err)
		}
		if a.status != http.StatusUnauthorized && a.status != http.StatusForbidden {
			return false, nil
		}
	}
	return true, nil
}
