package main_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	client "go.etcd.io/etcd/client/v2"

	"flanneld/pkg/lab"
)

func TestOwnKeyDeleted(t *testing.T) {
	n := newNetwork(t, 2, hostGW)
	h, peer := n.nodes[0], n.nodes[1]
	peer.waitRoutes(soon, routeTo(h))
	subnet, key := h.subnet(), h.key()
	n.witness(h, peer, func() {
		n.delete(key)
		t.Logf("the key is back after %s", n.wait(time.Second, "the key to be back", func() string {
			if n.get(key) == nil {
				return "it is not"
			}
			return ""
		}))
		h.waitLog("claimed it again")
		time.Sleep(100 * time.Millisecond) // what goes wrong now would show
	})
	peer.waitRoutes(time.Second, routeTo(h))
	if h.subnet() != subnet || h.daemon.ExitCode() != -1 {
		t.Errorf("subnet %s, exit code %d", h.subnet(), h.daemon.ExitCode())
	}
}

func TestSubnetTaken(t *testing.T) {
	n := newNetwork(t, 2, hostGW)
	h, peer := n.nodes[0], n.nodes[1]
	old, key := h.subnet(), h.key()
	theirs := `{"PublicIP":"192.168.0.200","BackendType":"host-gw"}`
	n.put(key, theirs)
	h.waitLog(fmt.Sprintf("our subnet %s now belongs to the host with the public address 192.168.0.200", old))
	h.waitLog(fmt.Sprintf("this host's subnet changed from %s to ", old))
	n.wait(soon, "a new subnet.env", func() string {
		if s := h.subnet(); s == old {
			return "subnet is still " + s.String()
		}
		return ""
	})
	if v := n.get(key).Value; v != theirs {
		t.Errorf("the other's lease is now %s", v)
	}
	want := fmt.Sprintf("%s via 192.168.0.200", old)
	peer.waitRoutes(soon, sorted(routeTo(h), want)...)
	h.waitLog("in its place is something that is not ours, to be removed by hand: " + old.String() + " dev docker0")
	h.addPod() // docker0 gets the new address
	h.waitRoutes(soon, sorted(routeTo(peer), want)...)
	n.pingAll()
}

// A daemon that was suspended until its lease expired leaves the lease of its
// successor alone.
func TestFrozenPastItsLease(t *testing.T) {
	n := newNetwork(t, 2, hostGW)
	h := n.nodes[0]
	old, key := h.subnet(), h.key()
	check(t, h.daemon.Freeze())
	theirs := `{"PublicIP":"192.168.0.200","BackendType":"host-gw"}`
	_, err := n.keys().Set(n.ctx, keyPrefix+"/"+key, n.get(key).Value, &client.SetOptions{TTL: time.Second})
	check(t, err)
	n.wait(soon, "the lease to expire", func() string {
		if n.get(key) != nil {
			return "it is there"
		}
		return ""
	})
	n.put(key, theirs)
	check(t, h.daemon.Thaw())
	n.wait(soon, "another subnet", func() string {
		if s := h.subnet(); s == old {
			return "subnet is still " + s.String()
		}
		return ""
	})
	if v := n.get(key).Value; v != theirs {
		t.Errorf("the successor's lease is now %s", v)
	}
}

func TestReuse(t *testing.T) {
	n := newNetwork(t, 2, hostGW)
	h := n.nodes[0]
	old := h.subnet()

	t.Log("the lease is gone, subnet.env names it")
	h.daemon.Kill()
	n.delete(h.key())
	h.start()
	h.waitReady()
	if h.subnet() != old {
		t.Errorf("subnet %s, before %s", h.subnet(), old)
	}

	t.Log("the lease is gone, another host has the subnet that subnet.env names")
	h.daemon.Kill()
	theirs := `{"PublicIP":"192.168.0.200","BackendType":"host-gw"}`
	key := h.key()
	n.put(key, theirs)
	h.start()
	h.waitReady()
	if h.subnet() == old || n.get(key).Value != theirs {
		t.Errorf("subnet %s was taken from another host", old)
	}
}

func TestReservation(t *testing.T) {
	n := newLab(t)
	n.startEtcd(lab.EtcdOptions{})
	n.put("config", hostGW)
	h := n.addNode(lab.HostOptions{})
	n.put("subnets/10.5.99.0-24", fmt.Sprintf(`{"PublicIP":"%s"}`, h.Addr))
	for range 3 {
		h.start()
		h.waitReady()
		if s := h.subnet().String(); s != "10.5.99.0/24" {
			t.Fatalf("subnet is %s", s)
		}
		if k := n.get(h.key()); k.TTL != 0 || !strings.Contains(k.Value, "host-gw") {
			t.Errorf("the reservation is now %s with TTL %d", k.Value, k.TTL)
		}
		_, err := h.daemon.Stop(soon)
		check(t, err)
	}

	t.Log("a value that someone damages is mended, and is still a reservation")
	h.start()
	h.waitReady()
	n.put("subnets/10.5.99.0-24", "garbage")
	n.wait(soon, "the value to be mended", func() string {
		if k := n.get(h.key()); k.TTL != 0 || !strings.Contains(k.Value, "host-gw") {
			return fmt.Sprintf("it is %q with TTL %d", k.Value, k.TTL)
		}
		return ""
	})
}
