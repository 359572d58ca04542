package etcd

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"flanneld/subnet"
	"flanneld/subnet/subnettest"
)

// memory is a store without connections.
type memory struct{ *subnettest.Memory }

func (memory) Close() {}

func TestChoose(t *testing.T) {
	// What an API has to say: a configuration, one with a lease, nothing, or
	// that it can't be had.
	const config, lease, nothing = "configuration", "lease", "nothing"
	const other, none, refused, down = "another configuration", "no API", "refused", "down"
	store := func(state string) Store {
		m := subnettest.NewMemory()
		switch state {
		case none:
			m.Fail(fmt.Errorf("%w it", ErrNoAPI))
		case refused:
			m.Fail(fmt.Errorf("%w", ErrRefused))
		case down:
			m.Fail(&UnavailableError{[]error{errors.New("down")}})
		case config:
			m.SetConfig(`{"Network": "10.5.0.0/16", "SubnetLen": 24}`)
		case other:
			m.SetConfig(`{"Network": "10.6.0.0/16", "SubnetLen": 24}`)
		case lease:
			m.SetConfig(`{"SubnetLen":24,"Network":"10.5.0.0/16"}`)
			m.PutRaw("10.5.1.0-24", `{"PublicIP":"192.0.2.1"}`, time.Hour)
		}
		return memory{m}
	}
	for _, test := range []struct{ v2, v3, want string }{
		{config, nothing, "v2"},
		{config, none, "v2"},
		{config, refused, "v2"},
		{config, down, ""},
		{nothing, config, "v3"},
		{none, config, "v3"},
		{refused, config, "v3"},
		{down, config, ""},
		{config, config, "v3"},
		{lease, config, "v2"},
		{config, lease, "v3"},
		{lease, lease, "v3"},
		{config, other, ""},
		{other, lease, ""},
		{none, nothing, ""},
		{nothing, none, ""},
		{nothing, nothing, ""},
		{refused, nothing, ""},
		{nothing, refused, ""},
		{none, none, ""},
		{none, refused, ""},
		{down, down, ""},
	} {
		v2, v3 := store(test.v2), store(test.v3)
		got, why, err := choose(t.Context(), v2, v3)
		name := map[Store]string{v2: "v2", v3: "v3", nil: ""}[got]
		if name != test.want || (err == nil) != (test.want != "") || (err == nil) != (why != "") {
			t.Errorf("v2 %s, v3 %s: chose %q, %v; want %q", test.v2, test.v3, name, err, test.want)
		}
		person := test.v2 == nothing && test.v3 == nothing || test.v2 == nothing && test.v3 == none ||
			test.v2 == none && test.v3 == nothing || test.v2 == other || test.v3 == other
		if errors.Is(err, subnet.ErrNoConfig) != person {
			t.Errorf("v2 %s, v3 %s: %v", test.v2, test.v3, err)
		}
	}
}

// slow is a store whose last server does not answer in time, and the others lack
// its API.
type slow struct{ memory }

func (slow) Config(ctx context.Context) ([]byte, error) {
	<-ctx.Done()
	return nil, &UnavailableError{[]error{ErrNoAPI}}
}

// Time may run out over servers that hang: what the others said holds.
func TestChooseBesideHungServers(t *testing.T) {
	v2, v3 := slow{memory{subnettest.NewMemory()}}, memory{subnettest.NewMemory()}
	v3.SetConfig("{}")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if got, _, err := choose(ctx, v2, v3); got != Store(v3) || err != nil {
		t.Errorf("chose %v, %v", got, err)
	}
}
