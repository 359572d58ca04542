package main_test

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/lab"
)

// quietAfter is how long a state may take until all is said of it, and quietFor how long
// nothing more may be said then.
const (
	quietAfter = 25 * time.Second
	quietFor   = 65 * time.Second
)

// What lasts is said when it begins, and not again and again.
func TestLastingStatesAreSilent(t *testing.T) {
	t.Parallel()
	const one = `{"Network":"10.5.0.0/16","SubnetMin":"10.5.1.0","SubnetMax":"10.5.1.0","Backend":{"Type":%q}}`
	// Each state has a network of its own, below a prefix of its own, in one etcd.
	type state struct {
		config string
		args   []string
		opts   lab.HostOptions
		says   string // the first line of it
		more   int    // lines that may follow: another cause
		// before and after are what is done to the host before and after its daemon is ready.
		before, after func(n *network, h *node)
	}
	put := func(n *network, h *node, key, value string) {
		check(t, n.admin.put(n.ctx, "/"+h.Name+"/"+key, value, 0))
	}
	states := map[string]state{
		"no configuration":       {says: "no network configuration at"},
		"a bad configuration":    {config: "{", says: "not valid JSON"},
		"an unknown backend":     {config: `{"Network":"10.5.0.0/16","Backend":{"Type":"warp"}}`, says: "is not a known backend"},
		"a VNI that is too high": {config: `{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":10000000}}`, says: "VNI 10000000"},
		"no free subnet": {config: fmt.Sprintf(one, "vxlan"), says: "no free subnet", before: func(n *network, h *node) {
			put(n, h, "subnets/10.5.1.0-24", `{"PublicIP":"192.168.0.250"}`)
		}},
		"host-gw behind a NAT":             {config: fmt.Sprintf(one, "host-gw"), args: []string{"-public-ip=203.0.113.9"}, says: "must be the address of eth0"},
		"no such interface":                {config: fmt.Sprintf(one, "vxlan"), args: []string{"-iface=eth7"}, says: "there is no such interface"},
		"an endpoint that refuses":         {args: []string{"-etcd-endpoints=http://192.168.0.2:9"}, says: "connection refused"},
		"an endpoint that does not answer": {args: []string{"-etcd-endpoints=http://192.0.2.1:2379"}, says: "trying again", more: 1},
		"endpoints of both kinds":          {args: []string{"-etcd-api=2", "-etcd-endpoints=http://192.0.2.1:2379,http://192.168.0.2:9"}, says: "trying again", more: 1},
		"an address that is lost": {config: fmt.Sprintf(one, "vxlan"), says: "the external interface: ", after: func(_ *network, h *node) {
			h.run("ip", "addr", "flush", "dev", "eth0")
		}},
		"an interface that is down": {config: fmt.Sprintf(one, "vxlan"), says: "is down", after: func(_ *network, h *node) {
			h.run("ip", "link", "set", "eth0", "down")
		}},
		"a subnet file that cannot be written":  {config: fmt.Sprintf(one, "host-gw"), args: []string{"-subnet-file=/proc/nowhere/subnet.env"}, says: "trying again"},
		"a state folder that cannot be written": {config: fmt.Sprintf(one, "host-gw"), args: []string{"-state-dir=/proc/nowhere"}, says: "a start without etcd would not be possible"},
		"a VXLAN port in use": {config: `{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}`, says: "belongs to another program", before: func(_ *network, h *node) {
			occupy(h, 8472)
		}},
		"a UDP port in use": {config: `{"Network":"10.5.0.0/16","Backend":{"Type":"udp"}}`, says: "address already in use", before: func(_ *network, h *node) {
			occupy(h, 8285)
		}},
		"routes of others": {config: `{"Network":"10.5.0.0/16","SubnetMax":"10.5.1.0","Backend":{"Type":"host-gw"}}`, says: "in its place is something that is not ours", after: func(n *network, h *node) {
			// All at once: whatever comes for long is logged again and again.
			h.run("sh", "-c", "for i in $(seq 2 141); do echo route add 10.5.$i.0/24 via 192.168.0.2 proto static; done | ip -batch -")
			for i := range 140 {
				put(n, h, fmt.Sprintf("subnets/10.5.%d.0-24", i+2), fmt.Sprintf(`{"PublicIP":"192.168.0.%d","BackendType":"host-gw"}`, i+80))
			}
		}},
		"unusable leases": {config: `{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}`, says: "cannot be used and is left alone: 10.7.", after: func(n *network, h *node) {
			for i := range 140 {
				put(n, h, fmt.Sprintf("subnets/10.7.%d.0-24", i+2), fmt.Sprintf(`{"PublicIP":"192.168.0.%d","BackendType":"host-gw"}`, i+80))
			}
		}},
		"a configuration that is not followed": {config: `{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}`, says: "takes a restart", after: func(n *network, h *node) {
			put(n, h, "config", `{"Network":"10.5.0.0/16","EnableNFTables":true,"Backend":{"Type":"vxlan"}}`)
		}},
		"a port in use that is asked for": {config: `{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}`, says: "belongs to another program", after: func(n *network, h *node) {
			occupy(h, 8999)
			put(n, h, "config", `{"Network":"10.5.0.0/16","EnableNFTables":false,"Backend":{"Type":"vxlan","Port":8999}}`)
		}},
		"a subnet that was taken": {config: fmt.Sprintf(one, "vxlan"), says: "now belongs to", after: func(n *network, h *node) {
			put(n, h, "subnets/10.5.1.0-24", `{"PublicIP":"192.168.0.250","BackendType":"vxlan","BackendData":{"VtepMAC":"02:00:00:00:00:01"}}`)
		}},
		"a route that is taken away every second": {config: `{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}`, says: "restored", more: 2, after: func(n *network, h *node) { // on a busy machine it seems to end, and begins anew
			put(n, h, "subnets/10.5.9.0-24", `{"PublicIP":"192.168.0.250","BackendType":"host-gw"}`)
			h.loop("ip route del 10.5.9.0/24; sleep 1")
		}},
		"an interface that comes and goes": {config: `{"Network":"10.5.0.0/16","SubnetMax":"10.5.1.0","Backend":{"Type":"host-gw"}}`, says: "is down", more: 2, after: func(n *network, h *node) { // on a busy machine etcd is away for longer than can pass unsaid
			for i := range 20 {
				put(n, h, fmt.Sprintf("subnets/10.5.%d.0-24", i+2), fmt.Sprintf(`{"PublicIP":"192.168.0.%d","BackendType":"host-gw"}`, i+80))
			}
			h.loop("ip link set eth0 down; sleep 1.5; ip link set eth0 up; sleep 1.5")
		}},
		// That someone does that is said three times.
		"a VXLAN device that is deleted again and again": {config: `{"Network":"10.5.0.0/16","SubnetMax":"10.5.1.0","Backend":{"Type":"vxlan"}}`, says: "restored", more: 3, after: func(n *network, h *node) {
			for i := range 20 {
				put(n, h, fmt.Sprintf("subnets/10.5.%d.0-24", i+2), fmt.Sprintf(`{"PublicIP":"192.168.0.%d","BackendType":"vxlan","BackendData":{"VtepMAC":"02:00:00:00:00:%02x"}}`, i+80, i+1))
			}
			h.loop("ip link del flannel.1; sleep 1.4")
		}},
		"a TUN device that is deleted again and again": {config: `{"Network":"10.5.0.0/16","Backend":{"Type":"udp"}}`, says: "has stopped", more: 3, after: func(_ *network, h *node) {
			h.loop("ip link del flannel0; sleep 1.4")
		}},
	}
	n := newLab(t, vxlan)
	n.startEtcd(lab.EtcdOptions{})
	names := make(map[*node]string)
	for name, s := range states {
		h := n.addNode(s.opts)
		names[h] = name
		h.args = append([]string{"-etcd-prefix=/" + h.Name}, s.args...)
		if s.config != "" {
			put(n, h, "config", s.config)
		}
		if s.before != nil {
			s.before(n, h)
		}
		h.start()
	}
	for _, h := range n.nodes {
		if s := states[names[h]]; s.after != nil {
			check(t, h.daemon.WaitReady(n.ctx))
			s.after(n, h)
		}
	}
	n.pause(quietAfter)
	for _, h := range n.nodes {
		if says := states[names[h]].says; !strings.Contains(h.daemon.Log(), says) {
			t.Errorf("%s: the log does not say %q:\n%s", names[h], says, h.daemon.Log())
		}
	}
	// Where several daemons are in trouble on a busy machine, it takes some time until all that
	// there is to say of that was said.
	loud := n.nodes
	for windows := 2; windows > 0 && len(loud) > 0; windows-- {
		before, cpu := make(map[*node]string), make(map[*node]time.Duration)
		for _, h := range loud {
			before[h], cpu[h] = h.daemon.Log(), h.cpu()
		}
		n.pause(quietFor)
		loud = slices.DeleteFunc(slices.Clone(loud), func(h *node) bool {
			more := strings.TrimPrefix(h.daemon.Log(), before[h])
			lines, used := strings.Count(more, "\n"), h.cpu()-cpu[h]
			if lines <= states[names[h]].more && used <= slow(quietFor/50) {
				return true
			}
			t.Logf("%s: %d more lines, the last of them:\n%s\n%s of processor time in %s", names[h], lines, lastLines(more, 5), used, quietFor)
			return false
		})
	}
	for _, h := range loud {
		t.Errorf("%s: it is not silent", names[h])
	}
	for _, h := range n.nodes {
		if lines := strings.Count(h.daemon.Log(), "\n"); lines > 40+states[names[h]].more {
			t.Errorf("%s: %d lines, the last of them:\n%s", names[h], lines, lastLines(h.daemon.Log(), 5))
		}
	}
	if t.Failed() {
		n.nodes = nil // what matters was said
	}
}

// What others on the host set up by the hundreds costs little while it comes, nothing
// after that, and few lines: where all is well, and where something is waited for.
func TestAtRestAfterBurstsOfOthers(t *testing.T) {
	t.Parallel()
	const burst = `set -e; for i in $(seq 100); do
		ip link add v$i type veth peer name w$i; ip addr add 172.20.0.$i/32 dev v$i
		ip link set v$i up; ip link set w$i up; ip route add 172.21.0.$i/32 dev v$i
		ip rule add from 172.22.0.$i lookup 77; iptables -A INPUT -s 172.23.0.$i -j ACCEPT
	done`
	n := newConfigured(t, hostGW, settings{"SubnetMax": "10.5.50.0"})
	for name, before := range map[string]func(h *node){
		"all is well": func(*node) {},
		"no address":  func(h *node) { h.run("ip", "addr", "flush", "dev", "eth0") },
		"another's route": func(h *node) {
			h.run("ip", "route", "replace", "10.5.100.0/24", "via", "192.168.0.2", "proto", "static")
		},
	} {
		h := n.addNode(lab.HostOptions{})
		h.start()
		h.waitReady()
		for i := range 20 {
			n.putPeer(stranger(fmt.Sprintf("10.5.%d.0/24", i+100), fmt.Sprintf("192.168.0.%d", i+80)))
		}
		before(h)
		n.pause(4 * time.Second)
		log, start := h.daemon.Log(), h.cpu()
		h.run("sh", "-c", burst)
		if used, most := h.cpu()-start, slow(2*time.Second); used > most {
			t.Errorf("%s: %s of processor time for what others did", name, used)
		}
		n.pause(4 * time.Second)
		start = h.cpu()
		n.pause(4 * time.Second)
		if used, most := h.cpu()-start, slow(300*time.Millisecond); used > most {
			t.Errorf("%s: %s of processor time in the 4 s after that", name, used)
		}
		more := strings.TrimPrefix(h.daemon.Log(), log)
		if lines := strings.Count(more, "\n"); lines > 6 {
			t.Errorf("%s: %d lines:\n%s", name, lines, more)
		}
	}
}

func lastLines(text string, most int) string {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-most):], "\n")
}

// occupy holds a UDP port of the host until the test ends.
func occupy(h *node, port int) {
	h.n.t.Helper()
	var conn net.PacketConn
	check(h.n.t, h.Do(func() (err error) {
		conn, err = net.ListenPacket("udp4", fmt.Sprintf(":%d", port))
		return err
	}))
	h.n.t.Cleanup(func() { conn.Close() })
}

// loop runs a shell's commands again and again until the test ends.
func (h *node) loop(commands string) {
	h.n.t.Helper()
	_, err := h.Start("loop", []string{"sh", "-c", "while :; do " + commands + "; done"}, []string{"PATH=" + os.Getenv("PATH")}, lab.ProcessOptions{})
	check(h.n.t, err)
}
