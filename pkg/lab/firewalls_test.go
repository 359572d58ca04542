package lab_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"flanneld/pkg/lab"
)

// A host has a real firewalld and a real ufw, in whichever way, and this machine has neither.
func TestFirewalls(t *testing.T) {
	t.Parallel()
	for _, variant := range []string{"iptables-nft", "iptables-legacy"} {
		t.Run(variant, func(t *testing.T) {
			l := must(lab.New(lab.Options{BinDir: "../../build"}))(t)
			t.Cleanup(func() { check(t, l.Close()) })
			sw := must(l.AddSwitch("lan", netip.MustParsePrefix("192.168.50.0/24")))(t)
			h1 := must(l.AddHost("h1", sw, lab.HostOptions{}))(t)
			ctx := testContext(t)
			f, err := h1.AddFirewalls(ctx, lab.FirewallOptions{IPTables: variant})
			if errors.Is(err, lab.ErrNotRoot) {
				t.Skip(err)
			}
			check(t, err)
			has := func(what string) {
				t.Helper()
				if rules := must(f.Run(ctx, variant+"-save"))(t); !strings.Contains(rules, what) {
					t.Errorf("there is no %q in\n%s", what, rules)
				}
			}
			check(t, f.StartFirewalld(ctx, "iptables"))
			must(f.Run(ctx, "firewall-cmd", "--reload"))(t)
			has("-A FORWARD -j REJECT --reject-with icmp-host-prohibited\n")
			must(f.Run(ctx, "firewall-cmd", "--zone=trusted", "--add-source=10.5.0.0/16"))(t)
			has("10.5.0.0/16")
			must(f.Run(ctx, "ufw", "--force", "enable"))(t)
			has("-A FORWARD -j ufw-reject-forward\n")
		})
	}
}
