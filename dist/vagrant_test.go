package dist_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"flanneld/pkg/lab"
)

// vagrantShell is what the Vagrantfile has each machine do.
func vagrantShell(t *testing.T) string {
	t.Helper()
	found := regexp.MustCompile(`(?s)<<~'SHELL'\n(.*)\n +SHELL\n`).FindStringSubmatch(read(t, "Vagrantfile"))
	if found == nil {
		t.Fatal("the Vagrantfile has no shell script")
	}
	return strings.ReplaceAll(found[1], "\n        ", "\n") // as Ruby does
}

// The Vagrantfile is Ruby, and what is in it is a shell script without known faults.
func TestVagrantfile(t *testing.T) {
	if out, err := exec.Command("ruby", "-c", "Vagrantfile").CombinedOutput(); err != nil {
		t.Errorf("ruby: %v: %s", err, out)
	}
	check := exec.Command("shellcheck", "--shell=bash", "-")
	check.Stdin = strings.NewReader(vagrantShell(t))
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("shellcheck: %v:\n%s", err, out)
	}
}

// etcdUnit stands for that of Debian's package.
const etcdUnit = `[Service]
Type=notify
Environment=ETCD_DATA_DIR=/var/lib/etcd
EnvironmentFile=/etc/default/etcd
StateDirectory=etcd
ExecStart=/usr/local/bin/etcd
`

// followVagrant has hosts of the lab be the machines, and the stand-in for vagrant enter them.
func followVagrant(g *guide) {
	g.network = newLab(g.t)
	var err error
	g.sw, err = g.lab.AddSwitch("switch", netip.MustParsePrefix("172.17.8.0/24"))
	check(g.t, err)
	internet, err := g.lab.AddSwitch("internet", netip.MustParsePrefix("203.0.113.0/24"))
	check(g.t, err)
	g.server, err = g.lab.AddHost("outside", internet, lab.HostOptions{})
	check(g.t, err)
	machine, err := g.lab.AddMachine("workstation")
	check(g.t, err)
	workstation := &host{Host: machine, n: g.network}
	g.dirs[workstation] = filepath.Join(machine.Dir, "flanneld")
	checkout(g.t, g.dirs[workstation])
	programs := filepath.Join(machine.Dir, "programs")
	check(g.t, os.MkdirAll(programs, 0o755))
	check(g.t, lab.WriteProgram(filepath.Join(programs, "vagrant"), []byte("#!/bin/sh\n"+standIns["vagrant"].script), 0o755))
	workstation.path = programs

	g.run("make release ARCHES=amd64", workstation)
	pkg := read(g.t, one(g.t, g.dirs[workstation], "*.deb"))
	for i := range 3 {
		h := g.vagrantMachine(i+1, internet)
		h.boot(map[string]string{
			"/etc/hostname":          h.Name,
			"/etc/default/etcd":      "",
			unitDir + "etcd.service": etcdUnit,
			"/vagrant/flanneld_1_" + runtime.GOARCH + ".deb": pkg,
		})
		h.layUsr()
		h.standIn("apt-get")
		h.addProgram("etcd", read(g.t, "../build/etcd"))
		check(g.t, os.WriteFile(filepath.Join(programs, h.Name), []byte(strings.Join(h.sys.Enter(), " ")), 0o600))
		if i < len(g.hosts) {
			g.hosts[i] = h
		}
		g.nodes = append(g.nodes, h)
		h.run("env", "ADDRESS="+h.Addr.String(), "ETCD=http://172.17.8.101:2379",
			"timeout", "60", "bash", "-c", vagrantShell(g.t))
		h.waitShow("flanneld", "ActiveState", "active")
		if state := h.show("flanneld", "UnitFileState"); state != "enabled" {
			g.t.Errorf("at the next boot of %s flanneld is %s", h.Name, state)
		}
	}

	first, second := g.nodes[0], g.nodes[1]
	first.run("systemctl", "stop", "flanneld")
	g.oneByOne("flanneld -iface=eth1", first, func(s *terminal) {
		if log := s.log(); !strings.Contains(log, "using interface eth1 with address 172.17.8.101") {
			g.t.Errorf("the log is\n%s", log)
		}
	})
	first.run("systemctl", "start", "flanneld")

	g.run("$ vagrant ssh node1 -c 'systemctl status", workstation)
	for _, h := range g.nodes {
		check(g.t, lab.WriteImage(g.ctx, filepath.Join(h.sys.Root, "image.tar")))
		h.docker("import", "/image.tar", "busybox")
	}
	pod := netip.MustParsePrefix(first.env()["FLANNEL_SUBNET"]).Addr().Next().String()
	g.with("$ vagrant ssh node1 -c 'docker run", workstation, "10.5.34.2", pod)
	for _, h := range g.hosts {
		h.docker("rm", "--force", "pod")
	}
	g.containers()

	for _, h := range g.hosts {
		h.run("sed", "-i", "/FLANNELD_IFACE/d", optionsFile)
	}
	first.run("systemctl", "restart", "flanneld")
	second.run("systemctl", "restart", "--no-block", "flanneld")
	g.awaitOutput("waiting: ", second.journal)
}

// vagrantMachine is a host as Vagrant makes it: eth0 is behind a NAT of its own, and
// has the default route and an address that all have; eth1 is where they meet.
func (n *network) vagrantMachine(i int, internet *lab.Switch) *host {
	t := n.t
	t.Helper()
	name := fmt.Sprintf("node%d", i)
	inside, err := n.lab.AddSwitch("nat-"+name, netip.MustParsePrefix("10.0.2.0/24"))
	check(t, err)
	router, err := n.lab.AddHost("router-"+name, internet, lab.HostOptions{})
	check(t, err)
	check(t, router.AddNIC("eth1", inside, netip.MustParseAddr("10.0.2.2")))
	(&host{Host: router, n: n}).command(nil, "iptables", "-t", "nat", "-A", "POSTROUTING", "-o", "eth0", "-j", "MASQUERADE")
	machine, err := n.lab.AddHost(name, inside, lab.HostOptions{NoAddress: true})
	check(t, err)
	check(t, machine.AddAddr("eth0", netip.MustParsePrefix("10.0.2.15/24")))
	check(t, machine.AddRoute(lab.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.0.2.2"), Dev: "eth0"}))
	addr := n.sw.Prefix.Addr().As4()
	addr[3] = byte(100 + i)
	machine.Addr = netip.AddrFrom4(addr)
	check(t, machine.AddNIC("eth1", n.sw, machine.Addr))
	return &host{Host: machine, n: n}
}

// startAlone starts the daemon on a machine with an ID and a name of its own.
func (h *host) startAlone(env []string, args ...string) *lab.Daemon {
	t := h.n.t
	t.Helper()
	id, script := filepath.Join(h.Dir, "machine-id"), filepath.Join(h.Dir, "flanneld")
	check(t, os.WriteFile(id, []byte("machine-id of "+h.Name), 0o600))
	check(t, lab.WriteProgram(script, fmt.Appendf(nil, `#!/bin/sh
exec unshare --mount --uts sh -c 'hostname %s && mount --bind %s /etc/machine-id && exec %s "$@"' flanneld "$@"
`, h.Name, id, daemonBinary), 0o755))
	d, err := h.StartFlanneldIn(env, script, args...)
	check(t, err)
	t.Cleanup(d.Kill)
	return d
}

// Machines of which each has the same address on the interface of the default route
// make a network by that of the other, and say what to do if nobody tells them.
func TestSameAddressOnDefaultRoute(t *testing.T) {
	n := newNetwork(t)
	n.configure("10.5.0.0/16", "vxlan")
	internet, err := n.lab.AddSwitch("internet", netip.MustParsePrefix("203.0.113.0/24"))
	check(t, err)
	outside, err := n.lab.AddHost("outside", internet, lab.HostOptions{})
	check(t, err)
	var machines []*host
	for i := range 3 {
		h := n.vagrantMachine(i+1, internet)
		check(t, h.WaitPing(n.ctx, outside.Addr))
		machines = append(machines, h)
	}
	if !strings.Contains(vagrantShell(t), "\nFLANNELD_IFACE=$ADDRESS\n") {
		t.Error("the Vagrantfile does not name the interface by its address")
	}
	for _, c := range []struct {
		name string
		args func(*host) (env, args []string)
	}{
		{"as in the Vagrantfile", func(h *host) (env, args []string) { return []string{"FLANNELD_IFACE=" + h.Addr.String()}, nil }},
		{"name", func(*host) (env, args []string) { return nil, []string{"-iface=eth1"} }},
		{"regex", func(*host) (env, args []string) { return nil, []string{`-iface-regex=^192\.168\.0\.`} }},
		{"way", func(*host) (env, args []string) { return nil, []string{"-iface-can-reach=192.168.0.1"} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := n.in(t)
			for _, h := range machines {
				h.n = n
				env, args := c.args(h)
				d := h.startAlone(env, args...)
				check(t, d.WaitReady(n.ctx))
				check(t, d.WaitLog(n.ctx, fmt.Sprintf("using interface eth1 with address %s and", h.Addr)))
				if h.pod == nil {
					h.pod, err = h.AddPod("pod", d.Env())
					check(t, err)
				}
			}
			for _, from := range machines {
				for _, to := range machines {
					if from != to {
						check(t, from.pod.WaitPing(n.ctx, to.pod.Addr))
					}
				}
			}
		})
	}
	t.Run("not told", func(t *testing.T) {
		n := n.in(t)
		for _, h := range machines {
			h.n = n
		}
		check(t, machines[0].startAlone(nil).WaitReady(n.ctx))
		second := machines[1].startAlone(nil)
		ctx, cancel := context.WithTimeout(n.ctx, soon)
		defer cancel()
		const refusal = "the public address 10.0.2.15 of this machine, node2 "
		check(t, second.WaitLog(ctx, refusal))
		_, said, _ := strings.Cut(second.Log(), refusal)
		for _, want := range []string{"is also that of the machine node1 ", "which is alive", "-iface"} {
			if !strings.Contains(said, want) {
				t.Errorf("the second machine does not say %q, but %s", want, said)
			}
		}
		select {
		case <-second.Notify.Ready():
			t.Error("the second machine is ready all the same")
		default:
		}
	})
}
