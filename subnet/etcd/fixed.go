package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"flanneld/subnet"
)

// fixed is the store in the API that the user has named. Where that has no configuration,
// it looks into the other one, so as to say so.
type fixed struct {
	Store
	other   Store
	version int
}

// NewFixed returns a store that is the one in this version of the API. It closes both.
func NewFixed(version int, v2, v3 Store) Store {
	if version == 2 {
		return &fixed{v2, v3, version}
	}
	return &fixed{v3, v2, version}
}

// otherTimeout is how long the other API has to say whether it has the configuration.
const otherTimeout = 2 * time.Second

// Config implements subnet.Store.
func (f *fixed) Config(ctx context.Context) ([]byte, error) {
	config, err := f.Store.Config(ctx)
	if !errors.Is(err, subnet.ErrNoConfig) && !errors.Is(err, ErrNoAPI) {
		return config, err
	}
	ctx, cancel := context.WithTimeout(ctx, otherTimeout)
	defer cancel()
	if _, none := f.other.Config(ctx); none != nil {
		return nil, err
	}
	if other := 5 - f.version; errors.Is(err, ErrNoAPI) {
		err = fmt.Errorf("%w; version %d has a network configuration: say -etcd-api=%[2]d or auto", err, other)
	} else {
		err = fmt.Errorf("%w in version %d of etcd's API, as -etcd-api says; version %d has one: if that is the network's, say -etcd-api=%[3]d or auto",
			briefly(err), f.version, other)
	}
	return nil, err
}

// Reconnect implements subnet.Store.
func (f *fixed) Reconnect() {
	f.Store.Reconnect()
	f.other.Reconnect()
}

// Close implements Store.
func (f *fixed) Close() {
	f.Store.Close()
	f.other.Close()
}
