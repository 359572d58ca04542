package doctor

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"flanneld/backend"
	"flanneld/network"
	"flanneld/pkg/dataplane/kernel"
	"flanneld/pkg/ip"
	"flanneld/pkg/status"
	"flanneld/subnet"
)

var (
	now  = time.Now()
	pfx  = netip.MustParsePrefix
	addr = netip.MustParseAddr
)

func lease(p, public, machine string) *subnet.Lease {
	return &subnet.Lease{
		Subnet: ip.SubnetOf(pfx(p)), Expires: now.Add(20 * time.Hour),
		Attrs: subnet.Attrs{PublicIP: ip.Addrs{V4: addr(public)}, Machine: machine},
	}
}

func iface(name string, addrs ...string) kernel.Interface {
	i := kernel.Interface{Name: name, MTU: 1500, Up: true, Running: true, Bridge: name == "docker0"}
	for _, a := range addrs {
		i.Addrs = append(i.Addrs, kernel.Address{Prefix: pfx(a)})
	}
	return i
}

// healthy are the facts of a host on which all is well.
func healthy(t *testing.T) *Facts {
	t.Helper()
	c, err := subnet.ParseConfig([]byte(`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}`))
	if err != nil {
		t.Fatal(err)
	}
	own, other := lease("10.5.3.0/24", "192.168.0.2", "host1 0123456789ab"), lease("10.5.4.0/24", "192.168.0.3", "host2 ba9876543210")
	used := backend.Underlay{Iface: "eth0", MTU: 1500, Up: true, Addr: addr("192.168.0.2"), Net: pfx("192.168.0.0/24"), PublicIP: addr("192.168.0.2")}
	return &Facts{
		Version: "dev", Host: "host1", Now: now, Margin: time.Hour, SubnetFile: "/run/flannel/subnet.env",
		Daemon: &status.Status{
			Version: "dev", Started: now.Add(-time.Minute), Ready: true, Health: status.Healthy, Lease: &status.Lease{Subnet: "10.5.3.0/24", Expires: own.Expires},
			Network: []status.Family{{Name: "IPv4", Iface: "eth0", Addr: used.Addr, Device: "flannel.1"}}, Peers: status.Peers{Count: 1}, Objects: []status.Kind{{Name: "route", Wanted: 3}},
		},
		Peers:  []status.Peer{{Subnet: "10.5.4.0/24", PublicIP: "192.168.0.3", State: status.PeerReachable}},
		Store:  Store{Name: "etcd", Servers: []subnet.ServerHealth{{Name: "http://etcd:2379", Version: "3.5.0", Took: time.Millisecond, Date: now, At: now}}},
		Config: c, Leases: []*subnet.Lease{own, other}, Own: own, Others: []*subnet.Lease{other}, Machine: own.Machine,
		Env:        network.Env{Network: c.Network(), Subnet: own.Subnet},
		Interfaces: []kernel.Interface{iface("eth0", "192.168.0.2/24"), iface("flannel.1", "10.5.3.0/32"), iface("docker0", "10.5.3.1/24")},
		Underlays:  map[ip.Family]Underlay{ip.V4: {Used: used, Best: used}},
		Features:   []Feature{{Name: "VXLAN", Has: true}}, Devices: []string{"flannel.1"},
		CNIFile: "/etc/cni/net.d/10-flannel.conflist", LookedAtCNI: true, Managers: []string{"ufw"},
		Boot: Boot{Units: []string{"docker.service"}},
	}
}

// Where all is well, all that is said is that.
func TestHealthy(t *testing.T) {
	r := Examine(healthy(t))
	if !r.OK {
		t.Error("it is not")
	}
	for _, f := range r.Findings {
		if f.Verdict != Good || f.Remedy != "" || f.Text == "" {
			t.Errorf("%+v", f)
		}
	}
	for _, c := range checks {
		if len(c.name) > nameWidth || c.name != "bridge" && !slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Check == c.name }) {
			t.Errorf("nothing is said of %s", c.name)
		}
	}
	var screen strings.Builder
	if err := r.Print(&screen); err != nil || strings.Count(screen.String(), "✓ ") != len(r.Findings) {
		t.Errorf("%v, %s", err, &screen)
	}
}

// Each thing that is wrong is named by one check, with what to do, and by no other one.
func TestFindings(t *testing.T) {
	o := network.Obstacle{Subject: "10.5.3.0/24", Problem: "something is wrong", Remedy: "mend it"}
	for _, c := range []struct {
		name   string
		hurt   func(*Facts)
		check  string
		text   string
		remedy string
	}{
		{"a daemon that says nothing", func(f *Facts) { f.Daemon, f.NoDaemon = nil, errors.New("deadline exceeded") }, "daemon", "deadline exceeded", "journalctl"},
		{"a daemon that waits", func(f *Facts) {
			f.Daemon.Lease, f.Daemon.Ready, f.Daemon.Waiting = nil, false, "waiting: no free subnet"
		}, "daemon", "no free subnet", "journalctl"},
		{"etcd down", func(f *Facts) {
			f.Daemon.Store.Down = true
			f.Daemon.Problems = []status.Problem{{Component: status.ComponentStore, Text: "etcd cannot be used"}}
			f.Store.Servers[0].Err, f.Store.Servers[0].Advice = errors.New("connection refused"), "start etcd"
			f.NoLeases, f.NoConfig, f.Saved = errors.New("etcd does not answer"), errors.New("etcd does not answer"), true
		}, "store", "http://etcd:2379: connection refused", "start etcd"},
		{"etcd slow", func(f *Facts) {
			f.Store.Servers[0].Took = 3 * time.Second
			f.NoLeases, f.NoConfig, f.Saved = errors.New("no answer"), errors.New("no answer"), true
		}, "store", "takes 3s to answer", "log"},
		{"one endpoint down", func(f *Facts) {
			f.Store.Servers = append(f.Store.Servers, subnet.ServerHealth{Name: "http://b:2379", Err: errors.New("no route")})
		}, "store", "http://b:2379: no route", ""},
		{"no certificate", func(f *Facts) { f.Store.Err = errors.New("reading -etcd-cafile: no such file") }, "store", "-etcd-cafile", ""},
		{"no permission", func(f *Facts) {
			f.Daemon, f.NoLeases, f.Stopped = nil, errors.New("permission denied (grant it: …)"), true
		}, "access", "permission denied", ""},
		{"a clock that is ahead", func(f *Facts) { f.Store.Servers[0].Date = now.Add(-time.Minute) }, "clock", "1m0s before that of http://etcd:2379", "NTP"},
		{"a clock that is behind", func(f *Facts) { f.Store.Servers[0].Date = now.Add(time.Hour) }, "clock", "1h0m0s behind that of", "NTP"},
		{"no configuration", func(f *Facts) { f.Config, f.NoConfig = nil, fmt.Errorf("%w at /config", subnet.ErrNoConfig) }, "configuration", "/config", "-check-config"},
		{"a configuration that is not followed", func(f *Facts) {
			f.Daemon.Problems = []status.Problem{{Component: status.ComponentConfiguration, Text: "not followed: it takes a restart"}}
		}, "configuration", "takes a restart", ""},
		{"no interface", func(f *Facts) { f.Underlays[ip.V4] = Underlay{Err: errors.New("there is no default route")} }, "interface", "no default route", ""},
		{"an interface that is down", func(f *Facts) { f.Interfaces[0].Up = false }, "interface", "eth0 is down", "ip link set eth0 up"},
		{"the wrong interface", func(f *Facts) {
			f.Interfaces = append(f.Interfaces, iface("eth1", "10.0.2.15/24"))
			u := f.Underlays[ip.V4]
			u.Used.Iface, u.Used.Addr, u.Used.Net = "eth1", addr("10.0.2.15"), pfx("10.0.2.0/24")
			u.Wrong = []network.Obstacle{o}
			f.Underlays[ip.V4] = u
		}, "interface", o.Problem, o.Remedy},
		{"the lease is another host's", func(f *Facts) { f.Own, f.Leases = nil, []*subnet.Lease{lease("10.5.3.0/24", "192.168.0.77", "")} }, "lease", "the lease of another host: 192.168.0.77", "restart flanneld"},
		{"there is no lease", func(f *Facts) { f.Own, f.Leases = nil, nil }, "lease", "10.5.3.0/24, which /run/flannel/subnet.env names, is no lease in etcd", "start flanneld"},
		{"a lease that is not renewed", func(f *Facts) { f.Own.Expires = now.Add(10 * time.Minute) }, "lease", "ends in 10m0s", "log"},
		{"an address of two machines", func(f *Facts) { f.Leases = append(f.Leases, lease("10.5.9.0/24", "192.168.0.2", "host9 ffffffffffff")) }, "lease", "host9", "-iface"},
		{"a lease that cannot say what it should", func(f *Facts) {
			f.Daemon.Problems = []status.Problem{{Component: status.ComponentLease, Text: "the lease cannot say what it should: x"}}
		}, "lease", "cannot say", ""},
		{"another subnet in subnet.env", func(f *Facts) { f.Env.Subnet = ip.SubnetOf(pfx("10.5.8.0/24")) }, "subnet file", "10.5.8.0/24, and the daemon has 10.5.3.0/24", "log"},
		{"no VXLAN", func(f *Facts) { f.Features[0] = Feature{Name: "VXLAN", Remedy: "modprobe vxlan"} }, "kernel", "no VXLAN", "modprobe vxlan"},
		{"objects missing", func(f *Facts) {
			f.Daemon.Problems = []status.Problem{{Component: status.ComponentDataplane, Text: "1 of 3 objects not in place"}}
		}, "objects", "1 of 3", "flanneld -status"},
		{"an old device", func(f *Facts) { f.Interfaces = append(f.Interfaces, iface("flannel0", "10.5.7.0/16")) }, "leftovers", "flannel0 has 10.5.7.0/16", "ip link del flannel0"},
		{"forwarding", func(f *Facts) { f.Passages = []network.Obstacle{o} }, "forwarding", o.Problem, o.Remedy},
		{"rp_filter", func(f *Facts) {
			f.Peers[0].State = status.PeerUnreachable
			rejected := o
			rejected.Kind = network.OnRPFilter
			f.Paths = []network.Obstacle{rejected}
		}, "rp_filter", o.Problem, o.Remedy},
		{"no br_netfilter", func(f *Facts) { f.Store.Kubernetes = true }, "bridge", "on docker0", "modprobe br_netfilter"},
		{"a firewall", func(f *Facts) { f.Filters = []network.Obstacle{o} }, "filters", o.Problem, o.Remedy},
		{"a route in the way", func(f *Facts) { f.Paths = []network.Obstacle{o} }, "routes", o.Problem, o.Remedy},
		{"a route in Network", func(f *Facts) {
			f.Foreign = map[ip.Family][]kernel.TableRoute{ip.V4: {{Dst: pfx("10.5.77.0/24"), Dev: "eth1", Table: 254}, {Dst: pfx("10.0.0.0/8"), Table: 254}, {Dst: pfx("10.5.4.0/25"), Table: 254}}}
		}, "overlap", "lies in Network 10.5.0.0/16", "SubnetMin"},
		{"docker0 of another network", func(f *Facts) { f.CNIFile, f.Interfaces[2] = "", iface("docker0", "172.17.0.1/16") }, "pods", "docker0: it has 172.17.0.1/16", "restart docker"},
		{"cni0 of another subnet", func(f *Facts) {
			f.Passages = []network.Obstacle{{Kind: network.OnPods, Subject: network.CNIBridge, Problem: "its address"}}
		}, "pods", "cni0: its address", ""},
		{"another CNI file", func(f *Facts) { f.CNI = []network.Obstacle{o} }, "CNI", o.Problem, o.Remedy},
		{"a boot in disorder", func(f *Facts) { f.Boot.Before = f.Boot.Units }, "boot order", "docker.service may be started before", "After=flanneld.service"},
		{"a lease that cannot be used", func(f *Facts) {
			f.Peers = append(f.Peers, status.Peer{Subnet: "10.5.9.0/24", State: status.PeerUnusable, Reason: "it is nonsense"})
		}, "leases", "it is nonsense", ""},
		{"a peer that is cut off", func(f *Facts) {
			f.Peers[0].State, f.Peers[0].Reason, f.Peers[0].Remedy = status.PeerUnreachable, "the port is blocked", "tcpdump"
		}, "reachability", "10.5.4.0/24 (192.168.0.3) is unreachable: the port is blocked", "tcpdump"},
		{"a path that is narrow", func(f *Facts) { f.Peers[0].State = status.PeerSmallOnly }, "path MTU", "small-only", ""},
	} {
		f := healthy(t)
		c.hurt(f)
		r := Examine(f)
		n := 0
		for _, is := range r.Findings {
			if is.Verdict != Bad {
				continue
			}
			n++
			if is.Check != c.check || !strings.Contains(is.Text, c.text) || !strings.Contains(is.Remedy, c.remedy) {
				t.Errorf("%s: %+v", c.name, is)
			}
		}
		if n != 1 || r.OK {
			t.Errorf("%s: %d findings, OK %v", c.name, n, r.OK)
		}
	}
}

// What could not be found out is said to be so, and is no fault.
func TestUnknown(t *testing.T) {
	failed := errors.New("no permission")
	for check, hurt := range map[string]func(*Facts){
		"daemon":        func(f *Facts) { f.Daemon, f.Stopped = nil, true },
		"access":        func(f *Facts) { f.NoLeases = failed }, // while the daemon can
		"clock":         func(f *Facts) { f.Store.Servers[0].Date = time.Time{} },
		"configuration": func(f *Facts) { f.Config, f.NoConfig = nil, failed },
		"lease":         func(f *Facts) { f.Daemon, f.Stopped, f.NoLeases = nil, true, failed },
		"subnet file":   func(f *Facts) { f.Daemon, f.Stopped, f.Env = nil, true, network.Env{} },
		"interface":     func(f *Facts) { f.NoInterfaces = failed },
		"kernel":        func(f *Facts) { f.Features[0].Err = failed },
		"leftovers":     func(f *Facts) { f.NoInterfaces = failed },
		"forwarding":    func(f *Facts) { f.NoPassages = failed },
		"rp_filter":     func(f *Facts) { f.NoPaths = failed },
		"filters":       func(f *Facts) { f.NoFilters = failed },
		"routes":        func(f *Facts) { f.NoPaths = failed },
		"overlap":       func(f *Facts) { f.NoForeign = failed },
		"pods":          func(f *Facts) { f.NoInterfaces = failed },
		"boot order":    func(f *Facts) { f.Boot.Err = failed },
		"leases":        func(f *Facts) { f.Daemon, f.Stopped, f.NoLeases = nil, true, failed },
		"reachability":  func(f *Facts) { f.Peers[0].State = status.PeerUsed },
		"path MTU":      func(f *Facts) { f.Peers[0].State = status.PeerGone },
		"CNI":           func(f *Facts) { f.LookedAtCNI = false },
	} {
		f := healthy(t)
		hurt(f)
		r := Examine(f)
		if !slices.ContainsFunc(r.Findings, func(is Finding) bool { return is.Check == check && is.Verdict == Unknown && is.Text != "" }) {
			t.Errorf("%s is not unknown: %+v", check, r.Findings)
		}
		if !r.OK && !slices.ContainsFunc(r.Findings, func(is Finding) bool {
			return is.Verdict == Bad && (is.Check == "access" || is.Check == "reachability")
		}) {
			t.Errorf("%s: not OK: %+v", check, r.Findings)
		}
	}
}
