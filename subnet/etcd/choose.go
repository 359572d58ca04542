package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"

	"flanneld/subnet"
)

// choose returns the one of the stores in etcd's two APIs where the network is,
// and how that is known: it is where its configuration is. The APIs do not see
// each other's keys. If both have the same configuration, as in a cluster that
// moves from one to the other, it is where hosts have leases, or else v3. The
// error says why that can't be known yet, and is to be followed by another try; it
// wraps subnet.ErrNoConfig if what is missing is a configuration to go by.
func choose(ctx context.Context, v2, v3 Store) (chosen Store, why string, err error) {
	var config2, config3 []byte
	var err2, err3 error
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		config2, err2 = v2.Config(ctx)
	}()
	config3, err3 = v3.Config(ctx)
	<-asked
	switch {
	case err2 == nil && err3 == nil && !SameConfig(config2, config3):
		return nil, "", &twoConfigsError{string(config2), string(config3)}
	case err2 == nil && err3 == nil:
		return inUse(ctx, v2, v3)
	case err3 == nil && elsewhere(err2):
		return v3, onlyConfig, nil
	case err2 == nil && elsewhere(err3):
		return v2, onlyConfig, nil
	// A server without an API may have a neighbour that has it, and is down: that
	// nothing is in the other one decides nothing.
	case errors.Is(err3, subnet.ErrNoConfig) && missing(err2):
		return nil, "", err3
	case errors.Is(err2, subnet.ErrNoConfig) && missing(err3):
		return nil, "", err2
	}
	if ctx.Err() != nil {
		return nil, "", ctx.Err()
	}
	return nil, "", undecided(err2, err3)
}

const onlyConfig = "the network's configuration is there"

// elsewhere reports whether an error of an API means that a configuration in the
// other one is the only one. Each API has users of its own.
func elsewhere(err error) bool { return missing(err) || errors.Is(err, ErrRefused) }

// missing reports whether an error of an API means that nothing is there.
func missing(err error) bool {
	return errors.Is(err, subnet.ErrNoConfig) || errors.Is(err, ErrNoAPI)
}

func undecided(err2, err3 error) error {
	const doing = "finding out which of etcd's APIs the network is in"
	said := func(err error) bool { return err != nil && !errors.Is(err, subnet.ErrNoConfig) }
	switch {
	case !said(err2), said(err3) && err2.Error() == err3.Error(): // the usual one: no server answers
		return fmt.Errorf("%s: %w", doing, err3)
	case !said(err3):
		return fmt.Errorf("%s: %w", doing, err2)
	}
	return fmt.Errorf("%s: in version 3: %w; in version 2: %w", doing, err3, err2)
}

// SameConfig reports whether two configurations say the same, however they are
// written.
func SameConfig(a, b []byte) bool {
	var x, y any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return string(a) == string(b)
	}
	return reflect.DeepEqual(x, y)
}

// twoConfigsError is that the APIs have configurations that differ. Like one
// that is missing, it takes a person to mend that.
type twoConfigsError struct{ v2, v3 string }

func (e *twoConfigsError) Error() string {
	return fmt.Sprintf("etcd has two network configurations that differ, %.200q in version 2 of its API and %.200q in version 3: "+
		"say with -etcd-api=2 or -etcd-api=3 which one holds, or delete the other", e.v2, e.v3)
}

func (e *twoConfigsError) Unwrap() error { return subnet.ErrNoConfig }

func inUse(ctx context.Context, v2, v3 Store) (Store, string, error) {
	const both = "the same network configuration is in version 2 and 3, and "
	s3, err := v3.List(ctx)
	if err != nil {
		return nil, "", err
	}
	s2, err := v2.List(ctx)
	if err != nil {
		return nil, "", err
	}
	switch {
	case len(s3.Leases) > 0:
		return v3, both + "there are leases in version 3", nil
	case len(s2.Leases) > 0:
		return v2, both + "there are leases in version 2 alone", nil
	}
	return v3, both + "there are no leases in either", nil
}
