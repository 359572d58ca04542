package dist_test

import "strings"

// rulesVariant is a way in which flanneld may write rules for packets.
type rulesVariant struct {
	name     string
	mode     string // of flanneld
	iptables string // what /usr/sbin/iptables-… is called iptables
	list     string // a command that lists rules of this way
}

var rulesVariants = []rulesVariant{
	{"nftables", "nftables", "nft", "nft list ruleset"},
	{"iptables-nft", "iptables", "nft", "iptables-nft-save"},
	{"iptables-legacy", "iptables", "legacy", "iptables-legacy-save"},
}

// testRules checks that pods reach the outside, which knows no way to them.
func (n *network) testRules(v rulesVariant) {
	for _, h := range n.hosts {
		for _, suffix := range []string{"", "-save", "-restore"} {
			h.run("ln", "-sf", "/usr/sbin/iptables-"+v.iptables+suffix, "/usr/local/bin/iptables"+suffix)
		}
		options := n.options() + "FLANNELD_IP_MASQ=true\nFLANNELD_MASQ_MODE=" + v.mode + "\n"
		check(n.t, h.sys.WriteFile(optionsFile, options))
		h.run("systemctl", "restart", "flanneld")
		check(n.t, h.pod.WaitPing(n.ctx, n.server.Addr))
		if rules := h.run(strings.Fields(v.list)...); !strings.Contains(rules, "10.5.0.0/16") {
			n.t.Errorf("%s tells of no rules of flanneld:\n%s", v.list, rules)
		}
	}
	n.wantPings()
}
