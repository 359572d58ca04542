package dist_test

import (
	"net"
	"regexp"
	"strings"
	"time"
)

// The rules in security.md keep what pods send from the tunnel's port of any host, and nothing
// else; the daemon does not take them for a fault.
func followSecurity(g *guide) {
	g.lay("192.168.0.2", 2, nil)
	g.startEtcd()
	g.install(`{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}`)
	for _, h := range g.nodes {
		check(g.t, h.sys.WriteFile(optionsFile, g.options()+"FLANNELD_IP_MASQ=true\n"))
	}
	g.restart()
	g.addPods("pod")
	g.run("iptables -I INPUT")
	h, other := g.nodes[0], g.nodes[1]
	for chain, to := range map[string]*host{"INPUT": h, "FORWARD": other} {
		check(g.t, h.pod.Do(func() error {
			conn, err := net.Dial("udp4", net.JoinHostPort(to.Addr.String(), "8472"))
			if err != nil {
				return err
			}
			defer conn.Close()
			_, err = conn.Write([]byte("a VXLAN header would come here"))
			return err
		}))
		dropped := regexp.MustCompile(`(?m)^ *1 .* DROP .* dpt:8472`)
		g.wait(soon, "a dropped datagram in "+chain, func() string {
			if rules := h.run("iptables", "-nvL", chain); !dropped.MatchString(rules) {
				return "there is\n" + rules
			}
			return ""
		})
	}
	time.Sleep(5 * time.Second) // the daemon reads rules that were left alone for two seconds
	g.wantPings()
	for _, h := range g.nodes {
		if journal := h.journal(); strings.Contains(journal, "packets are kept from their way") {
			g.t.Errorf("of these rules, the daemon says\n%s", journal)
		}
	}
}
