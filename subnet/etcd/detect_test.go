package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"flanneld/subnet"
	"flanneld/subnet/subnettest"
)

// memory is a store without connections.
type memory struct {
	*subnettest.Memory
	guarded bool
}

func (memory) Close() {}

func (m memory) Guarded(context.Context) (bool, error) { return m.guarded, nil }

// remembered is a Memory that is gone with the process.
type remembered int

func (r *remembered) Used() int       { return int(*r) }
func (r *remembered) Use(version int) { *r = remembered(version) }

func TestDetectAPI(t *testing.T) {
	// What an API has to say: a configuration, one with a lease, nothing, or
	// that it can't be had. "users" says that only users can write it.
	const config, lease, other, nothing = "configuration", "lease", "another configuration", "nothing"
	const usersConfig, usersLease, usersOther, usersNothing = "users' configuration", "users' lease", "users' another configuration", "users' nothing"
	const none, refused, down = "no API", "refused", "down"
	store := func(state string) Store {
		m := subnettest.NewMemory()
		state, guarded := strings.CutPrefix(state, "users' ")
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
		return memory{m, guarded}
	}
	const person = true // has to write or to correct a configuration
	for _, test := range []struct {
		v2, v3 string
		want   [4]int // the version, where the host last used none, (nothing), 2, 3
		person bool   // where that is 0
	}{
		// Nobody asks for users.
		{config, nothing, all(2), false},
		{nothing, config, all(3), false},
		{config, none, [4]int{2, 2, 2, 0}, false},
		{none, config, all(3), false},
		{config, down, [4]int{0, 0, 2, 0}, false},
		{down, config, [4]int{0, 0, 0, 3}, false},
		{config, config, all(3), false},
		{lease, config, [4]int{2, 2, 2, 3}, false},
		{config, lease, all(3), false},
		{lease, lease, all(3), false},
		{config, other, [4]int{0, 0, 2, 3}, person},
		{other, lease, [4]int{0, 0, 2, 3}, person},
		{none, nothing, all(0), person},
		{nothing, none, all(0), person},
		{nothing, nothing, all(0), person},
		{nothing, down, all(0), false},
		{none, none, all(0), false},
		{down, down, all(0), false},
		// Version 3 has users, and version 2 is open to everyone.
		{config, usersConfig, all(3), false},
		{lease, usersConfig, all(3), false},
		{other, usersConfig, all(3), false},
		{other, usersLease, all(3), false},
		{config, usersNothing, [4]int{0, 0, 2, 0}, person},
		{config, refused, [4]int{0, 0, 2, 0}, false},
		{nothing, usersConfig, all(3), false},
		{nothing, refused, all(0), false},
		{nothing, usersNothing, all(0), person},
		{none, usersConfig, all(3), false},
		{none, refused, all(0), false},
		// The other way round.
		{usersConfig, config, all(2), false},
		{usersConfig, lease, all(2), false},
		{usersConfig, other, all(2), false},
		{usersNothing, config, [4]int{0, 0, 0, 3}, person},
		{refused, config, [4]int{0, 0, 0, 3}, false},
		{usersConfig, nothing, all(2), false},
		{refused, nothing, all(0), false},
		{usersConfig, none, [4]int{2, 2, 2, 0}, false},
		// Both have users.
		{usersConfig, usersConfig, all(3), false},
		{usersLease, usersConfig, [4]int{2, 2, 2, 3}, false},
		{usersOther, usersConfig, [4]int{0, 0, 2, 3}, person},
		{usersConfig, usersNothing, all(2), false},
		{usersNothing, usersConfig, all(3), false},
		{usersConfig, refused, [4]int{0, 0, 2, 0}, false},
		{refused, usersConfig, all(3), false},
		{refused, refused, all(0), false},
	} {
		for _, used := range []int{0, 2, 3} {
			name := fmt.Sprintf("v2 %s, v3 %s, last used %d", test.v2, test.v3, used)
			v2, v3 := store(test.v2), store(test.v3)
			got, why, err := detectAPI(t.Context(), v2, v3, used)
			version := 0
			if got != nil {
				version = got.version
				if want := map[int]Store{2: v2, 3: v3}[version]; got.store != want {
					t.Errorf("%s: the store is not that of version %d", name, version)
				}
			}
			if version != test.want[used] || (err == nil) != (version != 0) || (err == nil) != (why != "") {
				t.Errorf("%s: chose %d, %q, %v; want %d", name, version, why, err, test.want[used])
			}
			if err != nil && test.v2 == config && !strings.Contains(err.Error(), "say -etcd-api=2") && !strings.Contains(err.Error(), "say with -etcd-api=2") {
				t.Errorf("%s: %v; which does not tell the way out", name, err)
			}
			if err != nil && errors.Is(err, subnet.ErrNoConfig) != test.person {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// all is the same version, whichever was used last.
func all(version int) [4]int { return [4]int{version, version, version, version} }

// What cannot be found out about users is asked for again.
func TestDetectAPIWithoutAnswerAboutUsers(t *testing.T) {
	v2, v3 := silent{memory{Memory: subnettest.NewMemory()}}, memory{Memory: subnettest.NewMemory()}
	v3.SetConfig("{}")
	if got, _, err := detectAPI(t.Context(), v2, v3, 0); got != nil || !errors.Is(err, errSilent) {
		t.Errorf("chose %v, %v", got, err)
	}
}

// silent does not say whether it has users.
type silent struct{ memory }

var errSilent = errors.New("silent")

func (silent) Guarded(context.Context) (bool, error) { return false, errSilent }

// slow is a store whose last server does not answer in time, and the others lack
// its API.
type slow struct{ memory }

func (slow) Config(ctx context.Context) ([]byte, error) {
	<-ctx.Done()
	return nil, &UnavailableError{[]error{ErrNoAPI}}
}

// Time may run out over servers that hang: what the others said holds.
func TestDetectAPIBesideHungServers(t *testing.T) {
	v2, v3 := slow{memory{Memory: subnettest.NewMemory()}}, memory{Memory: subnettest.NewMemory()}
	v3.SetConfig("{}")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if got, _, err := detectAPI(ctx, v2, v3, 0); got == nil || got.store != Store(v3) || err != nil {
		t.Errorf("chose %v, %v", got, err)
	}
}
