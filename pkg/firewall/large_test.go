package firewall

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/dataplane/dataplanetest"
)

// kubeProxy are the rules of a kube-proxy for so many services, by iptables-restore.
func kubeProxy(services int) string {
	var chains, dispatch, jumps strings.Builder
	for i := range services {
		fmt.Fprintf(&chains, ":KUBE-SVC-%d - [0:0]\n:KUBE-SEP-%d - [0:0]\n", i, i)
		fmt.Fprintf(&dispatch, "-A KUBE-SERVICES -d 10.96.%d.%d/32 -p tcp -m comment --comment \"ns/svc%d:http cluster IP\" -m tcp --dport 80 -j KUBE-SVC-%d\n", i>>8&255, i&255, i, i)
		fmt.Fprintf(&jumps, "-A KUBE-SVC-%d ! -s 10.5.0.0/16 -d 10.96.%d.%d/32 -p tcp -m tcp --dport 80 -j KUBE-MARK-MASQ\n-A KUBE-SVC-%d -m statistic --mode random --probability 0.5 -j KUBE-SEP-%d\n", i, i>>8&255, i&255, i, i)
		fmt.Fprintf(&jumps, "-A KUBE-SEP-%d -s 10.5.2.%d/32 -j KUBE-MARK-MASQ\n-A KUBE-SEP-%d -p tcp -m tcp -j DNAT --to-destination 10.5.2.%d:8080\n", i, i&255, i, i&255)
	}
	return "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n" + chains.String() +
		"-A PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n" + dispatch.String() + jumps.String() +
		"COMMIT\n*filter\n:FORWARD DROP\n:KUBE-FORWARD -\n:FLANNEL-FWD -\n-A FORWARD -j KUBE-FORWARD\n-A FORWARD -j FLANNEL-FWD\n-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n" +
		"-A FLANNEL-FWD -s 10.5.0.0/16 -j ACCEPT\n-A FLANNEL-FWD -d 10.5.0.0/16 -j ACCEPT\nCOMMIT\n"
}

// With tens of thousands of rules on a host, samples pass within a moment.
func TestManyRules(t *testing.T) {
	dataplanetest.NeedNetns(t)
	const services = 5000 // four rules each
	for _, program := range []string{"iptables-nft", "iptables-legacy"} {
		rules(t, program, kubeProxy(services))
		began := time.Now()
		for _, sample := range []string{"any", "some", "back"} {
			if got := dropped(t, sample); got != "" {
				t.Errorf("%s is dropped by %s", sample, got)
			}
		}
		took := time.Since(began)
		t.Logf("%s: three samples, each with the rules read anew: %s", program, took)
		if took > 30*time.Second {
			t.Errorf("it takes %s", took)
		}
	}
	rules(t, "nft", "")
}

func BenchmarkExamine(b *testing.B) {
	for _, program := range []string{"iptables-nft", "iptables-legacy"} {
		rules(b, program, kubeProxy(5000))
		b.Run(program, func(b *testing.B) {
			for b.Loop() {
				if err := Read(b.Context(), func(rs *Ruleset) {
					for _, sample := range []string{"any", "out", "some", "back", "fwdu"} {
						rs.Drops(samples[sample])
					}
				}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkOneChain(b *testing.B) {
	var s strings.Builder
	s.WriteString("add table ip big\nadd chain ip big base { type nat hook prerouting priority -100; }\n")
	for i := range 20000 {
		fmt.Fprintf(&s, "add rule ip big base ip daddr 10.96.%d.%d tcp dport 80 counter accept\n", i>>8&255, i&255)
	}
	rules(b, "nft", s.String())
	for b.Loop() {
		if err := Read(b.Context(), func(rs *Ruleset) {
			for _, sample := range []string{"any", "out", "some", "back", "fwdu"} {
				rs.Drops(samples[sample])
			}
		}); err != nil {
			b.Fatal(err)
		}
	}
}

// A list of addresses, however long it is, takes little memory: of one that is too long to
// be looked at one by one, nothing is kept.
func TestLongList(t *testing.T) {
	dataplanetest.NeedNetns(t)
	const length = 50_000
	var s strings.Builder
	s.WriteString("add table inet t\nadd set inet t s { type ipv4_addr; flags interval; }\nadd chain inet t in { type filter hook input priority 0; }\nadd rule inet t in ip saddr @s drop\nadd element inet t s {")
	for i := range length {
		fmt.Fprintf(&s, " 20.%d.%d.%d,", i>>15, i>>7&255, i<<1&255)
	}
	s.WriteString(" 30.0.0.0/8 }\n")
	rules(t, "nft", s.String())
	defer rules(t, "nft", "")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	began := time.Now()
	for range 3 { // that there is nothing else to say does not change
		if got := dropped(t, "any"); got != "" {
			t.Errorf("it is dropped by %s", got)
		}
	}
	runtime.ReadMemStats(&after)
	took := after.TotalAlloc - before.TotalAlloc
	t.Logf("three times: %d KiB, %s", took>>10, time.Since(began))
	if took > 24<<20 {
		t.Errorf("%d MiB of memory were asked for", took>>20)
	}
}
