package migrate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	client "go.etcd.io/etcd/client/v3"

	"flanneld/subnet"
	"flanneld/subnet/etcd/etcdtest"
)

const (
	key1, key2, key3 = "subnets/10.5.1.0-24", "subnets/10.5.2.0-24", "subnets/10.5.3.0-24"
	// What is not understood is none of the migration's business.
	value1 = `{"PublicIP":"192.0.2.1", "BackendType":"new",  "BackendData":{"x":[1]},"More":"\u00e9<>"}`
	value2 = `{"PublicIP":"192.0.2.2"}`
	value3 = `{"PublicIP":"192.0.2.3","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VtepMAC":"12:34:56:78:9a:bc"}}`
)

func TestMigrate(t *testing.T) {
	s := start(t)
	s.v2("config", config, 0)
	s.v2(key1, value1, 24*time.Hour)
	s.v2(key2, value2, 0)
	s.v2(key3, value3, 90*time.Second)
	s.v2("subnets/10.5.4.0-24&fc00:4::-64", `{"PublicIP":"192.0.2.4","PublicIPv6":"fc00::4"}`, time.Hour)
	for key, value := range map[string]string{"nonsense": "", "10.5.9.1-24": value2, "10.5.10.0-24": "garbage", "10.5.11.0-24": `{"PublicIP":"127.0.0.1"}`, "10.5.12.0-24/folder": value2} {
		s.v2("subnets/"+key, value, 0)
	}

	left := []string{
		`left nonsense, which cannot be used: subnet key "nonsense"`,
		"left 10.5.9.1-24, which cannot be used: ",
		"left 10.5.10.0-24, which cannot be used: ",
		"left 10.5.11.0-24, which cannot be used: ",
		`left 10.5.12.0-24, which cannot be used: value "(a directory)"`,
	}
	would := append([]string{
		"would copy lease 10.5.1.0/24 of 192.0.2.1, 23h59m left",
		"would copy reservation 10.5.2.0/24 of 192.0.2.2",
		"would copy lease 10.5.3.0/24 of 192.0.2.3, 1m left",
		"would copy lease 10.5.4.0/24,fc00:4::/64 of 192.0.2.4,fc00::4, 59m left",
		"would copy the network's configuration",
		"leases: 4 to copy, 5 not usable",
	}, left...)
	reported, err := s.migrate(dry)
	check(t, err)
	reports(t, reported, would...)
	if all := s.all(); len(all) > 0 {
		t.Errorf("the dry run wrote %v", all)
	}
	s.checkLeases(0)

	reported, err = s.migrate(nil)
	check(t, err)
	did := []string{"restart all daemons within 1m: then the first of the copies ends"}
	for _, line := range would {
		did = append(did, strings.NewReplacer("would copy", "copied", "to copy", "copied").Replace(line))
	}
	reports(t, reported, did...)
	first := s.all()
	for key, want := range map[string]struct {
		value string
		ttl   int64
	}{"config": {config, 0}, key1: {value1, 86400}, key2: {value2, 0}, key3: {value3, 90}} {
		if w := first[key]; w.value != want.value || w.ttl > want.ttl+1 || w.ttl < want.ttl-30 || (w.ttl == 0) != (want.ttl == 0) {
			t.Errorf("%s is %+v, want %v", key, w, want)
		}
	}
	if len(first) != 5 {
		t.Errorf("there are %v", first)
	}
	s.checkLeases(3)

	// Again: nothing changes.
	reported, err = s.migrate(nil)
	check(t, err)
	reports(t, reported, append(left, "leases: 0 copied, 4 in version 3 already, 5 not usable")...)
	for key, w := range s.all() {
		if w.revision != first[key].revision || w.lease != first[key].lease {
			t.Errorf("%s was %+v and is %+v", key, first[key], w)
		}
	}
	s.checkLeases(3)
}

// What is in version 3 already stays.
func TestWhatIsThere(t *testing.T) {
	s := start(t)
	s.v2("config", config, 0)
	s.v2(key1, value1, time.Hour)
	s.v2(key2, value2, 0)
	s.v2(key3, value3, time.Hour)
	s.v3(key1, `{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan"}`, time.Hour) // as its daemon has it now
	s.v3(key2, value2, time.Hour)
	s.v3(key3, value1, time.Hour)
	before := s.all()
	wantConflict := func(change func(*Migration), config ...string) {
		t.Helper()
		reported, err := s.migrate(change)
		if !errors.Is(err, ErrConflict) {
			t.Errorf("the error is %v", err)
		}
		reports(t, reported, append(config,
			"left reservation 10.5.2.0/24 of 192.0.2.2: version 3 has it with an end; write it there without one to reserve it",
			"conflict: version 2 has 10.5.3.0/24 of 192.0.2.3, and version 3 has it of 192.0.2.1; left alone")...)
	}
	wantConflict(dry, "leases: 0 to copy, 2 in version 3 already, 1 in conflict")
	wantConflict(nil, "leases: 0 copied, 2 in version 3 already, 1 in conflict")
	for key, w := range s.all() {
		if before[key].revision != w.revision {
			t.Errorf("%s was %+v and is %+v", key, before[key], w)
		}
	}
	s.checkLeases(3)

	s.v3(key3, "garbage", 0)
	reported, err := s.migrate(nil)
	if !errors.Is(err, ErrConflict) || !strings.Contains(strings.Join(reported, "\n"), "of nobody that can be told") {
		t.Errorf("with garbage in its place: %v, %q", err, reported)
	}

	_, err = s.Delete(t.Context(), prefix+"/"+key3)
	check(t, err)
	reported, err = s.migrate(nil)
	check(t, err)
	reports(t, reported, "left reservation 10.5.2.0/24", "copied lease 10.5.3.0/24 of 192.0.2.3, 59m left",
		"copied the network's configuration", "leases: 1 copied, 2 in version 3 already", "restart all daemons within 59m")
}

// With a configuration there that says something else, nothing is written.
func TestConfigDiffers(t *testing.T) {
	s := start(t)
	s.v2("config", config, 0)
	s.v2(key1, value1, time.Hour)
	s.v3("config", `{"Network": "10.6.0.0/16"}`, 0)
	if _, err := s.migrate(nil); err == nil || !strings.Contains(err.Error(), "delete or correct the wrong one, and run this again") {
		t.Errorf("the error is %v", err)
	}
	if all := s.all(); len(all) != 1 {
		t.Errorf("there are %v", all)
	}
	s.checkLeases(0)
	s.v3("config", `{"Network":"10.5.0.0/16"}`, 0) // the same, in other words
	reported, err := s.migrate(nil)
	check(t, err)
	reports(t, reported, "copied lease 10.5.1.0/24", "leases: 1 copied", "restart all daemons")
	if all := s.all(); all["config"].value != `{"Network":"10.5.0.0/16"}` {
		t.Errorf("there are %v", all)
	}
}

func TestNothingToMigrate(t *testing.T) {
	s := start(t)
	_, err := s.migrate(nil)
	etcdtest.CheckError(t, "without keys", err, "there is nothing to migrate in version 2 of etcd's API", prefix+"/config")
	s.v2("config", `{"Network": "10.5.0.0"}`, 0)
	_, err = s.migrate(nil)
	etcdtest.CheckError(t, "a bad configuration", err, "Network", "correct it first")

	s.Server = etcdtest.Start(t, etcdtest.Config{Binary: etcdtest.Etcd6})
	_, err = s.migrate(nil)
	etcdtest.CheckError(t, "without version 2", err, "does not offer the v2 API", "--enable-v2")
}

// busy is a destination where something happens after the n-th listing.
type busy struct {
	Destination
	happens func(n int)
	n       int
}

func (b *busy) Entries(ctx context.Context) ([]subnet.Entry, error) {
	e, err := b.Destination.Entries(ctx)
	b.n++
	b.happens(b.n)
	return e, err
}

// Hosts may join and move meanwhile.
func TestBesideDaemons(t *testing.T) {
	s := start(t)
	s.v2("config", config, 0)
	s.v2(key1, value1, time.Hour)
	s.v2(key2, value2, time.Hour)
	during := func(n int, happens func()) func(*Migration) {
		return func(m *Migration) {
			m.To = &busy{Destination: m.To, happens: func(now int) {
				if now == n {
					happens()
				}
			}}
		}
	}
	reported, err := s.migrate(during(1, func() {
		s.v2(key3, value3, time.Hour)
		s.v3(key1, value1, time.Hour)
		s.v3(key2, value3, time.Hour)
	}))
	etcdtest.CheckError(t, "a conflict that was not there at first", err, "the configuration is not copied until that is put right")
	reports(t, reported, "copied lease 10.5.3.0/24", "leases: 1 copied, 1 in version 3 already, 1 in conflict",
		"conflict: version 2 has 10.5.2.0/24 of 192.0.2.2, and version 3 has it of 192.0.2.3")
	s.checkLeases(3) // and not those that were for nothing

	s.v3(key2, value2, time.Hour)
	_, err = s.migrate(during(1, func() { s.v3("config", `{"Network": "10.6.0.0/16"}`, 0) }))
	etcdtest.CheckError(t, "a configuration that was not there at first", err, "delete or correct the wrong one")

	s.v3("config", config, 0)
	_, err = s.migrate(during(2, func() { s.v3(key2, value3, time.Hour) }))
	check(t, err) // what is after the end is another one's business
	_, err = s.migrate(nil)
	etcdtest.CheckError(t, "a conflict with the configuration there", err, "of each two leases delete the wrong one")
	if strings.Contains(err.Error(), "the configuration is not copied") {
		t.Errorf("the error is %v", err)
	}
}

// One that is told to stop finishes what it has begun.
func TestStopped(t *testing.T) {
	s := start(t)
	s.v2("config", config, 0)
	for i := range 2 * atOnce {
		s.v2(fmt.Sprintf("subnets/10.5.%d.0-24", i), value1, time.Hour)
	}
	ctx, cancel := context.WithCancel(t.Context())
	m := &Migration{Report: func(string) { cancel() }}
	m.From, m.To = s.stores()
	if err := m.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v", err)
	}
	if n := len(s.all()); n != atOnce {
		t.Errorf("there are %d keys, want %d", n, atOnce)
	}
	s.checkLeases(atOnce)
	reported, err := s.migrate(nil)
	check(t, err)
	if want := fmt.Sprintf("leases: %d copied, %[1]d in version 3 already", atOnce); !slices.Contains(reported, want) {
		t.Errorf("it did not report %q", want)
	}
}

func TestShort(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second:                            "0s",
		1500 * time.Millisecond:                 "1s",
		59*time.Second + time.Millisecond:       "59s",
		time.Minute:                             "1m",
		10*time.Minute + 50*time.Second:         "10m",
		24 * time.Hour:                          "24h0m",
		23*time.Hour + 3599900*time.Millisecond: "23h59m",
	} {
		if got := short(d); got != want {
			t.Errorf("%s is %q, want %q", d, got, want)
		}
	}
}

func TestLarge(t *testing.T) {
	const leases = 5000
	s := start(t)
	s.v2("config", `{"Network": "10.0.0.0/8"}`, 0)
	for i := range leases {
		s.v2(fmt.Sprintf("subnets/10.%d.%d.0-24", 1+i>>8, i&255), fmt.Sprintf(`{"PublicIP":"172.16.%d.%d"}`, 1+i>>8, i&255), time.Hour)
	}
	begun := time.Now()
	_, err := s.migrate(nil)
	check(t, err)
	took := time.Since(begun)
	if t.Logf("%d leases took %s", leases, took); took > 30*time.Second {
		t.Error("that is too long")
	}
	resp, err := s.Get(t.Context(), prefix+"/subnets/", client.WithPrefix(), client.WithCountOnly())
	check(t, err)
	if resp.Count != leases {
		t.Errorf("there are %d leases", resp.Count)
	}
	s.checkLeases(leases)
}
