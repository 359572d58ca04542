package etcd

import (
	"context"
	"errors"
	"fmt"

	"flanneld/subnet"
)

// Choose returns the one of the stores in etcd's two APIs where the network is:
// where its configuration is. The APIs do not see each other's keys. If both have
// a configuration, as in a cluster that moves from one to the other, it is where
// hosts have leases, or else v3; if neither has, it is the only API that there
// is. The error says why that can't be known yet, and is to be followed by
// another try; it wraps subnet.ErrNoConfig if both APIs are there and have none.
func Choose(ctx context.Context, v2, v3 subnet.Store) (subnet.Store, error) {
	var err2 error
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		_, err2 = v2.Config(ctx)
	}()
	_, err3 := v3.Config(ctx)
	<-asked
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err2 == nil && err3 == nil:
		return inUse(ctx, v2, v3)
	case err3 == nil && elsewhere(err2):
		return v3, nil
	case err2 == nil && elsewhere(err3):
		return v2, nil
	case errors.Is(err3, subnet.ErrNoConfig) && errors.Is(err2, ErrNoAPI):
		return v3, nil
	case errors.Is(err2, subnet.ErrNoConfig) && errors.Is(err3, ErrNoAPI):
		return v2, nil
	case errors.Is(err2, subnet.ErrNoConfig) && errors.Is(err3, subnet.ErrNoConfig):
		return nil, fmt.Errorf("in neither of etcd's APIs: %w", err3)
	}
	var errs []error
	for _, err := range []error{err3, err2} {
		if err != nil && !errors.Is(err, subnet.ErrNoConfig) {
			errs = append(errs, err)
		}
	}
	return nil, fmt.Errorf("finding out which of etcd's APIs the network is in: %w", errors.Join(errs...))
}

// elsewhere reports whether an error of an API means that a configuration in the
// other one is the only one. Each API has users of its own.
func elsewhere(err error) bool {
	return errors.Is(err, subnet.ErrNoConfig) || errors.Is(err, ErrNoAPI) || errors.Is(err, ErrRefused)
}

func inUse(ctx context.Context, v2, v3 subnet.Store) (subnet.Store, error) {
	s3, err := v3.List(ctx)
	if err != nil {
		return nil, err
	}
	s2, err := v2.List(ctx)
	if err != nil {
		return nil, err
	}
	if len(s3.Leases) == 0 && len(s2.Leases) > 0 {
		return v2, nil
	}
	return v3, nil
}
