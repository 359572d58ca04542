package network

import (
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"flanneld/pkg/dataplane/kernel"
	"flanneld/pkg/ip"
	"flanneld/subnet"
)

// Nobody is told to delete a route by which this host reaches more than the peers.
func TestRoutesOfOthersToTheWorldStay(t *testing.T) {
	config, err := subnet.ParseConfig([]byte(`{"Network": "10.0.0.0/16"}`))
	if err != nil {
		t.Fatal(err)
	}
	w := desire()
	w.Config = config
	for dst, stays := range map[string]bool{
		"0.0.0.0/0": true, "0.0.0.0/1": true, "192.0.0.0/8": true, "10.0.0.0/8": true, "192.168.0.0/15": true,
		"192.168.0.0/16": false, "192.168.1.0/24": false, "10.0.0.0/16": false, "10.0.0.0/24": false,
	} {
		r := kernel.TableRoute{Dst: netip.MustParsePrefix(dst), Dev: "tun0", Table: unix.RT_TABLE_MAIN}
		world := &pathFixture{foreign: []kernel.TableRoute{r}}
		to := r.Dst.Addr().Next()
		c := newPathCheck(world, &w, ip.V4, pathsSeen{foreign: world.foreign})
		q := question{
			PathQuery: kernel.PathQuery{To: to}, peer: ip.SubnetOf(netip.PrefixFrom(to, 32)),
			want: func(path kernel.Path) bool { return path.Dev == "eth0" },
		}
		why, found, err := c.explain(q, kernel.Path{Dev: "tun0"})
		if err != nil || !found || !strings.Contains(why.problem, "is in the way") || stays != (why.remedy == "") {
			t.Errorf("%s: %+v, found: %t, %v", dst, why, found, err)
		}
	}
}

// The name of an interface is no command, whatever it is.
func TestRemediesQuoteInterfaces(t *testing.T) {
	prefix := netip.MustParsePrefix("10.0.0.1/24")
	w := desire()
	c := newPathCheck(&pathFixture{}, &w, ip.V4, pathsSeen{ifaces: []kernel.Interface{{Name: "$(reboot)", Addrs: []kernel.Address{{Prefix: prefix}}}}})
	if remedy := c.addrRemedy(kernel.TableRoute{Dst: prefix.Masked(), Dev: "$(reboot)"}); remedy != "ip addr del 10.0.0.1/24 dev '$(reboot)'" {
		t.Error(remedy)
	}
}
