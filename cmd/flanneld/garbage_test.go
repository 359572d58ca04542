package main_test

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/ip"
)

// Whatever stands under subnets/, the good peers are not touched, nothing is
// made of the bad, and each is mentioned once.
func TestGarbage(t *testing.T) { withWitness(t, dualToo, testGarbage) }

func testGarbage(t *testing.T, v variant) {
	n := newNetwork(t, 3, v, settings{"SubnetMin": "10.5.1.0", "SubnetMax": "10.5.99.0"})
	h := n.nodes[0]
	good := h.others()
	own := h.subnet().String()

	late := n.stranger("10.5.220.0/24", "192.168.0.9")
	fine := n.backend.lease(late)
	lease := func(public string) string { return strings.Replace(fine, `"192.168.0.9"`, public, 1) }
	garbage := map[string]string{ // by key
		"foo":            fine,
		"10.5.7.0":       fine,
		"0.0.0.0-0":      fine,
		"10.5.7.1-24":    fine,
		"10.5.120.0-23":  fine, // around another one, which is put beside it
		"10.6.7.0-24":    fine, // outside Network
		"192.168.0.0-24": fine, // the hosts' own network
		strings.ReplaceAll(own, ".0/24", ".128-25"): fine, // inside our own subnet
		strings.ReplaceAll(own, "/24", "-23"):       fine, // around it, if its key is canonical
		"10.5.200.0-24":                             "x",
		"10.5.201.0-24":                             "{}",
		"10.5.202.0-24":                             "5",
		"10.5.203.0-24":                             "null",
		"10.5.204.0-24":                             lease(`"0.0.0.0"`),
		"10.5.205.0-24":                             lease(`"224.0.0.1"`),
		"10.5.206.0-24":                             lease(fmt.Sprintf("%q", h.Addr)), // our own
		"10.5.207.0-24":                             lease("null"),
		"10.5.208.0-24":                             lease(`"10.5.208.7"`), // inside the lease itself
		"10.5.209.0-24":                             strings.Repeat("x", 1<<20),
		"10.5.210.0-24":                             `[{"PublicIP":"192.168.0.9"}]`,
	}
	if v.families == dualStack {
		ours := h.peer().also.subnet.Addr().String() // of fd00:5:0:X::/64
		fine6 := strings.NewReplacer(`"192.168.0.9"`, "null", fmt.Sprintf("%q", late.also.public), `"192.168.0.9"`).Replace(fine)
		maps.Copy(garbage, map[string]string{
			"fd00:5:0:582::-64":                         fine6, // an IPv4 address
			"fd00:5:0:582::1-64":                        fine,
			"fd00:5:0:0582::-64":                        fine, // not canonical
			"fd00:5:0:583::-64&10.5.131.0-24":           fine,
			"10.5.132.0-24&10.5.133.0-24":               fine,
			"::ffff:10.5.135.0-120":                     fine,
			"fd00:6:0:588::-64":                         fine, // outside IPv6Network
			strings.TrimSuffix(ours, ":") + "8000::-65": fine, // inside it
		})
	}
	inside := n.stranger("10.5.121.0/25", "192.168.0.10")
	n.putPeer(inside)
	good = append(good, inside)
	h.waitPeers(soon, good...)
	n.witnessAll(func() {
		for key, value := range garbage {
			n.put("subnets/"+key, value)
			h.waitLog("lease " + key + " cannot be used")
		}
		n.put("subnets/folder/key", "x")
		h.waitLog("lease " + n.store.nested + " cannot be used")
		h.waitPeers(0, good...)
	})
	for key := range garbage {
		if c := strings.Count(h.daemon.Log(), "lease "+key+" cannot be used"); c != 1 {
			t.Errorf("%s is mentioned %d times", key, c)
		}
	}
	if size := len(h.daemon.Log()); size > 20_000 {
		t.Errorf("the log has %d bytes", size)
	}

	t.Log("after a restart")
	n.witnessAll(func() {
		h.daemon.Kill()
		h.start()
		h.waitReady()
		for key := range garbage {
			h.waitLog("lease " + key + " cannot be used")
		}
		h.waitPeers(0, good...)
	})

	t.Log("removed")
	lines := strings.Count(h.daemon.Log(), "\n")
	for key := range garbage {
		n.delete("subnets/" + key)
	}
	n.putPeer(late) // the last thing to happen
	h.waitPeers(soon, append(good, late)...)
	if more := strings.Count(h.daemon.Log(), "\n") - lines; more != 1 {
		t.Errorf("%d lines were logged, want one for the new route", more)
	}
	if v.families == dualStack {
		testHalfGarbage(n, append(good, late)...)
	}
}

// testHalfGarbage has leases of which one family is good: that is used, and the other is not.
func testHalfGarbage(n *network, good ...peer) {
	t, h := n.t, n.nodes[0]
	t.Helper()
	t.Log("half of a lease is garbage")
	var halves []peer
	for i, public := range []string{`"ff02::1"`, `"::"`, `"fe80::9"`, fmt.Sprintf("%q", h.Of(ip.V6)), "null", `"::ffff:192.168.0.9"`, `"192.168.0.9"`} {
		p := n.stranger(fmt.Sprintf("10.5.%d.0/24", 130+i), fmt.Sprintf("192.168.0.%d", 130+i))
		n.put(p.key(), strings.Replace(n.backend.lease(p), fmt.Sprintf("%q", p.also.public), public, 1))
		h.waitLine("lease "+p.name(), "cannot be used")
		halves = append(halves, peer{subnet: p.subnet, public: p.public})
		h.waitPeers(soon, append(good, halves...)...)
	}
	unusable := func() (count int) {
		_, text, _ := strings.Cut(h.daemon.Status(), " peers, ")
		_, err := fmt.Sscanf(text, "%d leases unusable", &count)
		check(t, err)
		return count
	}
	before := unusable()
	twice := n.stranger("10.5.150.0/24", "192.168.0.150")
	n.put(twice.key(), strings.Replace(n.backend.lease(twice), `"BackendType":"`, `"BackendType":"no-`, 1))
	h.waitLine(twice.subnet.String(), "ignored: the lease is of backend")
	n.wait(soon, "one lease more to be unusable", func() string { // not one for each family
		if now := unusable(); now != before+1 {
			return fmt.Sprintf("there were %d and are %d", before, now)
		}
		return ""
	})
}

// A lease that becomes garbage is still in force as it last was, until it is
// removed: also after a restart, where what there is of it is in the kernel.
func TestBecomesGarbage(t *testing.T) { inParallel(t, everyVariant, testBecomesGarbage) }

func testBecomesGarbage(t *testing.T, v variant) {
	n := newNetwork(t, 2, v, nil)
	h := n.nodes[0]
	bad := stranger("10.5.200.0/24", "192.168.0.200")
	n.putPeer(bad)
	want := append(h.others(), bad)
	h.waitPeers(soon, want...)
	for _, value := range []string{"garbage", `{"PublicIP":"0.0.0.0"}`, fmt.Sprintf(`{"PublicIP":"%s"}`, h.Addr)} {
		n.put(bad.key(), value)
		h.waitLog("lease 10.5.200.0-24 cannot be used")
		n.pause(11 * time.Second) // longer than a vanished lease lingers
		h.waitPeers(0, want...)
		if v.backend.itself {
			continue // what a lease was is known by the daemon alone
		}
		h.daemon.Kill()
		h.start()
		h.waitReady()
		h.waitLog("lease 10.5.200.0-24 cannot be used")
		h.waitPeers(0, want...)
	}
	n.delete(bad.key())
	h.waitPeers(soon, n.nodes[1].peer())
}
