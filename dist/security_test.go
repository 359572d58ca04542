package dist_test

import (
	"net"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The rules in security.md keep what pods send from the tunnel's port of any host, and nothing
// else; the daemon does not take them for a fault.
func TestTunnelPortClosedToPods(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	n.configure("10.5.0.0/16", "vxlan")
	for _, h := range n.hosts {
		d, err := h.StartFlanneld(daemonBinary, "-ip-masq")
		check(t, err)
		check(t, d.WaitReady(n.ctx))
		h.pod, err = h.AddPod("pod", d.Env())
		check(t, err)
		defer func() {
			if log := d.Log(); strings.Contains(log, "packets are kept from their way") {
				t.Errorf("of these rules, the daemon says\n%s", log)
			}
		}()
	}
	for _, b := range blocks(t, "../Documentation/security.md") {
		if b.where != "each host" {
			t.Fatalf("nobody says on which hosts this is to be run:\n%s", b.script)
		}
		for _, h := range n.hosts {
			h.command(nil, "/bin/sh", "-euc", b.script)
		}
	}
	h, other := n.hosts[0], n.hosts[1]
	for chain, to := range map[string]*host{"INPUT": h, "FORWARD": other} {
		check(t, h.pod.Do(func() error {
			conn, err := net.Dial("udp4", net.JoinHostPort(to.Addr.String(), "8472"))
			if err != nil {
				return err
			}
			defer conn.Close()
			_, err = conn.Write([]byte("a VXLAN header would come here"))
			return err
		}))
		dropped := regexp.MustCompile(`(?m)^ *1 .* DROP .* dpt:8472`)
		n.wait(soon, "a dropped datagram in "+chain, func() string {
			if rules := h.command(nil, "iptables", "-nvL", chain); !dropped.MatchString(rules) {
				return "there is\n" + rules
			}
			return ""
		})
	}
	time.Sleep(5 * time.Second) // the daemon reads rules that were left alone for two seconds
	n.wantPings()
}
