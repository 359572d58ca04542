package dist_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/lab"
)

// cniHost is a host with CNI plugins, and the directories that they see as /run and
// /var/lib in place of this machine's.
type cniHost struct {
	*host
	run, lib, config, plugins string

	network string   // as the configuration calls it
	gateway string   // the device that has the pods' gateway
	kind    []string // of that, if the plugins do not make it
	env     []string // of the daemon
}

// confFile is where the daemon writes the configuration if it is to.
func (c *cniHost) confFile() string { return filepath.Join(c.config, "10-flannel.conflist") }

// installCNI installs the plugins on a host, and the configuration that is shipped.
func (h *host) installCNI() *cniHost {
	h.n.t.Helper()
	c := &cniHost{host: h, run: filepath.Join(h.Dir, "run"), lib: filepath.Join(h.Dir, "lib"), network: "flannel", gateway: "cni0"}
	var err error
	c.config, err = filepath.Abs("cni")
	check(h.n.t, err)
	c.plugins, err = filepath.Abs("../build/cni")
	check(h.n.t, err)
	for _, dir := range []string{c.run, c.lib} {
		check(h.n.t, os.MkdirAll(dir, 0o755))
	}
	return c
}

// installCNIFor installs the plugins on a host, for a configuration that the daemon writes
// from a template.
func (h *host) installCNIFor(template string) *cniHost {
	h.n.t.Helper()
	c := h.installCNI()
	c.config, c.network = filepath.Join(h.Dir, "net.d"), "cbr0"
	switch template {
	case "macvlan":
		c.gateway, c.kind = "pods", []string{"macvlan", "mode", "bridge"}
	case "ipvlan":
		c.gateway, c.kind = "pods", []string{"ipvlan", "mode", "l3s"}
	}
	check(h.n.t, os.MkdirAll(c.config, 0o755))
	return c
}

// start runs flanneld as Documentation/cni.md says, with its subnet file where the
// plugin looks for it.
func (c *cniHost) start(args ...string) *lab.Daemon {
	c.n.t.Helper()
	d, err := c.StartFlanneldIn(c.env, daemonBinary, append(args, "-ip-masq", "-subnet-file="+filepath.Join(c.run, "flannel/subnet.env"))...)
	check(c.n.t, err)
	c.n.t.Cleanup(d.Kill)
	check(c.n.t, d.WaitReady(c.n.ctx))
	return d
}

// call does what a container runtime does for a pod, with these variables, and
// returns what the plugins said.
func (c *cniHost) call(command string, pod *lab.Namespace, env ...string) string {
	c.n.t.Helper()
	code, out := c.tryCall(command, pod, env...)
	if code != 0 {
		c.n.t.Fatalf("cnitool %s %s for %s on %s ended with %d: %s", command, c.network, pod.Name, c.Name, code, out)
	}
	return out
}

func (c *cniHost) tryCall(command string, pod *lab.Namespace, env ...string) (code int, out string) {
	c.n.t.Helper()
	const script = `mount --bind "$1" /run && mount --bind "$2" /var/lib && exec "$3"/cnitool "$4" "$6" "$5"`
	return c.tryCommand(append(env, "NETCONFPATH="+c.config, "CNI_PATH="+c.plugins),
		"unshare", "--mount", "sh", "-c", script, "sh", c.run, c.lib, c.plugins, command, pod.Path(), c.network)
}

// command runs a program on the host and returns what it wrote.
func (h *host) command(env []string, argv ...string) string {
	h.n.t.Helper()
	code, out := h.tryCommand(env, argv...)
	if code != 0 {
		h.n.t.Fatalf("%q on %s ended with %d: %s", argv, h.Name, code, out)
	}
	return out
}

func (h *host) tryCommand(env []string, argv ...string) (code int, out string) {
	h.n.t.Helper()
	p, err := h.Start(filepath.Base(argv[0]), argv, env, lab.ProcessOptions{})
	check(h.n.t, err)
	code, err = p.Wait(h.n.ctx)
	check(h.n.t, err)
	return code, p.Log()
}

// pod is a namespace that the plugins have given an address.
type pod struct {
	*lab.Namespace
	c    *cniHost
	env  []string // of all calls for it
	addr netip.Addr
	six  netip.Addr // in a network of both families
}

// add makes a pod.
func (c *cniHost) add(name string, env ...string) *pod {
	c.n.t.Helper()
	sandbox, err := c.AddSandbox(name)
	check(c.n.t, err)
	text := c.call("add", sandbox, env...)
	var result struct {
		IPs []struct{ Address netip.Prefix }
	}
	if err := json.Unmarshal([]byte(text), &result); err != nil || len(result.IPs) == 0 || len(result.IPs) > 2 {
		c.n.t.Fatalf("the plugins said (%v):\n%s", err, text)
	}
	p := &pod{Namespace: sandbox, c: c, env: env, addr: result.IPs[0].Address.Addr()}
	if len(result.IPs) == 2 {
		p.six = result.IPs[1].Address.Addr()
	}
	return p
}

// del has the plugins take the pod's network away, and ends the pod.
func (p *pod) del() {
	p.c.n.t.Helper()
	p.c.call("del", p.Namespace, p.env...)
	if addrs, err := p.Addrs("eth0"); err == nil {
		p.c.n.t.Errorf("%s still has the addresses %s", p.Name, addrs)
	}
	p.Close()
}

// wantInSubnet checks that the pod has what its host's subnet file says.
func (p *pod) wantInSubnet(env map[string]string) {
	t := p.c.n.t
	t.Helper()
	bridge, err := netip.ParsePrefix(env["FLANNEL_SUBNET"])
	check(t, err)
	if got, err := p.Addrs("eth0"); err != nil || !slices.Contains(got, netip.PrefixFrom(p.addr, bridge.Bits())) {
		t.Errorf("%s has the addresses %s (%v), and the plugins said %s", p.Name, got, err, p.addr)
	}
	if !bridge.Contains(p.addr) || p.addr == bridge.Addr() {
		t.Errorf("%s has the address %s in the subnet %s", p.Name, p.addr, bridge)
	}
	if got, err := p.c.Addrs(p.c.gateway); err != nil || !slices.Contains(got, bridge) {
		t.Errorf("%s has the addresses %s (%v), want %s", p.c.gateway, got, err, bridge)
	}
	if mtu, err := p.MTU("eth0"); strconv.Itoa(mtu) != env["FLANNEL_MTU"] {
		t.Errorf("%s has the MTU %d (%v), want %s", p.Name, mtu, err, env["FLANNEL_MTU"])
	}
	p.c.call("check", p.Namespace, p.env...)
}

// wantReaches checks that a pod pings another, which sees it by its own address.
func (p *pod) wantReaches(to *pod) {
	t := p.c.n.t
	t.Helper()
	check(t, p.WaitPing(p.c.n.ctx, to.addr))
	if from := to.accept(p.Namespace, netip.AddrPortFrom(to.addr, 80)); from != p.addr {
		t.Errorf("%s connects to %s as %s", p.addr, to.addr, from)
	}
}

// accept has the pod listen at port 80 and a client connect to an address that leads
// there, and returns whom the pod sees.
func (p *pod) accept(client *lab.Namespace, addr netip.AddrPort) netip.Addr {
	t := p.c.n.t
	t.Helper()
	var listener *net.TCPListener
	check(t, p.Do(func() (err error) {
		listener, err = net.ListenTCP("tcp4", &net.TCPAddr{Port: 80})
		return err
	}))
	defer listener.Close()
	check(t, listener.SetDeadline(time.Now().Add(soon)))
	ctx, cancel := context.WithTimeout(p.c.n.ctx, soon)
	defer cancel()
	conn, err := client.DialContext(ctx, "tcp", addr.String())
	check(t, err)
	defer conn.Close()
	accepted, err := listener.AcceptTCP()
	check(t, err)
	defer accepted.Close()
	return accepted.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()
}

// remains are what the plugins know of pods, and what there is of them on the host:
// an address, a veth, the options of the delegate, and the chain of the ports.
func (c *cniHost) remains() []string {
	t := c.n.t
	t.Helper()
	var all []string
	check(t, filepath.WalkDir(c.lib, func(path string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && entry.Name() != "lock" && !strings.HasPrefix(entry.Name(), "last_reserved_ip.") {
			all = append(all, strings.TrimPrefix(path, c.lib))
		}
		return err
	}))
	check(t, c.Do(func() error {
		links, err := net.Interfaces()
		for _, link := range links {
			if strings.HasPrefix(link.Name, "veth") {
				all = append(all, link.Name)
			}
		}
		return err
	}))
	for line := range strings.Lines(c.command(nil, "iptables", "-t", "nat", "-S")) {
		if strings.HasPrefix(line, "-N CNI-DN-") {
			all = append(all, strings.TrimSpace(line))
		}
	}
	return all
}

// Pods of two hosts, made by the plugins that runtimes use, reach each other with
// each backend, and nothing stays of those that are gone.
func TestCNI(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	for _, backend := range []string{"vxlan", "host-gw", "udp"} {
		t.Run(backend, func(t *testing.T) {
			n := n.in(t)
			n.configure("10.5.0.0/16", backend)
			n.wantPods((*host).installCNI, 5) // one of each kind, and the runtime's own note
		})
	}
}

// They do so with a configuration that the daemon writes.
func TestCNIConfFile(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		template string
		backends []string
		remains  int // what there is of a pod
	}{
		{"bridge", []string{"vxlan", "host-gw", "udp"}, 4},
		{"macvlan", []string{"vxlan", "host-gw"}, 3}, // the host has no device
		{"ipvlan", []string{"host-gw"}, 3},
	} {
		t.Run(test.template, func(t *testing.T) {
			t.Parallel()
			n := newNetwork(t)
			if test.template == "ipvlan" {
				h := n.hosts[0]
				if out, err := h.try("ip link add link eth0 name pods type ipvlan mode l3s 2>&1 && ip link delete pods"); err != nil {
					n.configure("10.5.0.0/16", "host-gw")
					h.wantIPVLANAsked()
					t.Skipf("this kernel has no ipvlan (CONFIG_IPVLAN): %s", out)
				}
			}
			for _, backend := range test.backends {
				t.Run(backend, func(t *testing.T) {
					n := n.in(t)
					n.configure("10.5.0.0/16", backend)
					n.wantPods(func(h *host) *cniHost { return h.installCNIFor(test.template) }, test.remains,
						"-cni-conf-template="+test.template)
				})
			}
		})
	}
}

// In a network of both families a pod has an address of each, by the plugin that reads the subnet
// file as well as by what the daemon writes, and pods reach each other by either.
func TestCNIOfBothFamilies(t *testing.T) {
	t.Parallel()
	for name, install := range map[string]func(*host) *cniHost{
		"the flannel plugin": (*host).installCNI,
		"bridge":             func(h *host) *cniHost { return h.installCNIFor("bridge") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNetwork(t, netip.MustParsePrefix("fd00::/64"))
			n.put("config", `{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:5::/48","Backend":{"Type":"vxlan"}}`)
			var pods []*pod
			for _, h := range n.hosts {
				c := install(h)
				var args []string
				if c.network != "flannel" {
					args = append(args, "-cni-conf-file="+c.confFile())
				}
				env := c.start(args...).Env()
				p := c.add("pod")
				p.wantInSubnet(env)
				if six, err := netip.ParsePrefix(env["FLANNEL_IPV6_SUBNET"]); err != nil || !six.Contains(p.six) {
					t.Errorf("%s has %s, and the subnet is %s (%v)", p.Name, p.six, six, err)
				}
				pods = append(pods, p)
			}
			for i, from := range pods {
				to := pods[1-i]
				from.wantReaches(to)
				check(t, from.WaitPing(n.ctx, to.six))
				check(t, from.c.WaitPing(n.ctx, from.six)) // from the host
			}
			for _, p := range pods {
				p.del()
				if got := p.c.remains(); len(got) > 0 {
					t.Errorf("of a pod that is gone there is %q", got)
				}
			}
		})
	}
}

// wantIPVLANAsked checks, where the kernel has no ipvlan, that the plugin takes what is
// written for it, and gets as far as to ask the kernel.
func (h *host) wantIPVLANAsked() {
	h.n.t.Helper()
	c := h.installCNIFor("ipvlan")
	c.start("-cni-conf-file="+c.confFile(), "-cni-conf-template=ipvlan")
	sandbox, err := c.AddSandbox("pod")
	check(h.n.t, err)
	if code, out := c.tryCall("add", sandbox); code == 0 || !strings.Contains(out, "failed to create ipvlan: operation not supported") {
		h.n.t.Errorf("status %d: %s", code, out)
	}
}

// wantPods checks what a user sees of pods on two hosts, with a configuration that is
// installed, or is written where it is to be.
func (n *network) wantPods(install func(*host) *cniHost, remains int, args ...string) {
	t := n.t
	t.Helper()
	const port8080 = `CAP_ARGS={"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}`
	var pods []*pod
	var gateways []netip.Addr
	for _, h := range n.hosts {
		c := install(h)
		own := args
		if len(args) > 0 {
			own = append(own, "-cni-conf-file="+c.confFile())
		}
		daemon := c.start(own...)
		c.addGateway(daemon.Env())
		gateways = append(gateways, netip.MustParsePrefix(daemon.Env()["FLANNEL_SUBNET"]).Addr())
		p := c.add("pod-"+filepath.Base(t.Name()), port8080)
		p.wantInSubnet(daemon.Env())
		if got := c.remains(); len(got) != remains {
			t.Errorf("of a pod there is %q", got)
		}
		pods = append(pods, p)
	}
	pods[0].wantReaches(pods[1])
	pods[1].wantReaches(pods[0])
	check(t, pods[0].WaitPing(n.ctx, n.server.Addr)) // outside, as the host
	check(t, n.hosts[0].WaitPing(n.ctx, pods[0].addr))
	if from := pods[0].accept(n.hosts[1].Namespace, netip.AddrPortFrom(n.hosts[0].Addr, 8080)); from != n.hosts[1].Addr {
		t.Errorf("%s connects to a port of %s as %s", n.hosts[1].Addr, n.hosts[0].Addr, from)
	}
	// The way to itself: the plugin has the gateway's address stand for the pod's.
	if from := pods[0].accept(pods[0].Namespace, netip.AddrPortFrom(n.hosts[0].Addr, 8080)); from != gateways[0] {
		t.Errorf("a pod connects to its own port of the host as %s", from)
	}
	for _, p := range pods {
		p.del()
		if got := p.c.remains(); len(got) > 0 {
			t.Errorf("of a pod that is gone there is %q", got)
		}
	}
}

// addGateway adds the device by which this host reaches its pods if the plugins make none, as
// Documentation/cni.md says.
func (c *cniHost) addGateway(env map[string]string) {
	c.n.t.Helper()
	if c.kind == nil {
		return
	}
	_, _ = c.try("ip link delete " + c.gateway) // of another backend
	c.command(nil, append([]string{"ip", "link", "add", "link", "eth0", "name", c.gateway, "type"}, c.kind...)...)
	c.command(nil, "ip", "address", "add", env["FLANNEL_SUBNET"], "dev", c.gateway)
	c.command(nil, "ip", "link", "set", c.gateway, "up")
}

// What the daemon has written follows what there is, is put back, and names what keeps pods
// from getting their network by it; a restart finds it as it is, and -cleanup removes it.
func TestCNIConfFileFollows(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	n.put("config", `{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}`)
	c, other := n.hosts[0].installCNIFor("bridge"), n.hosts[1].installCNIFor("bridge")
	peer := other.addFor("there", other.start("-cni-conf-file="+other.confFile()))
	args := []string{"-cni-conf-file=" + c.confFile()}

	// The runtime is installed after the daemon.
	check(t, os.Remove(c.config))
	daemon := c.start(args...)
	check(t, daemon.WaitLog(n.ctx, "there is no folder "+c.config))
	if _, err := os.Stat(c.config); err == nil {
		t.Error("the daemon made the folder of the runtime")
	}
	check(t, os.Mkdir(c.config, 0o755))
	n.waitFile(c.confFile(), `"mtu": 1450,`)
	first := c.addFor("first", daemon)
	first.wantReaches(peer)

	written := read(t, c.confFile())
	for _, spoil := range []func() error{
		func() error { return os.Remove(c.confFile()) },
		func() error { return os.WriteFile(c.confFile(), []byte("{}"), 0o644) },
	} {
		check(t, spoil())
		n.waitFile(c.confFile(), written)
	}

	before := filepath.Join(c.config, "05-other.conf")
	check(t, os.WriteFile(before, []byte("{}"), 0o644))
	check(t, daemon.WaitLog(n.ctx, before+": the container runtime takes the first file by name"))
	check(t, os.Remove(before))
	check(t, daemon.WaitLog(n.ctx, "no longer in the way: "+before))

	n.put("config", `{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan", "MTU": 1400}}`)
	n.waitFile(c.confFile(), `"mtu": 1350,`)
	n.waitFile(other.confFile(), `"mtu": 1350,`)

	c.stop(daemon)
	kept := read(t, c.confFile())
	daemon = c.start(args...)
	if now := read(t, c.confFile()); now != kept || strings.Contains(daemon.Log(), "wrote "+c.confFile()) {
		t.Errorf("after a restart it is\n%s\nand was\n%s", now, kept)
	}
	second := c.addFor("second", daemon)
	second.wantReaches(first)
	second.wantReaches(peer)

	// Another subnet: the bridge has the address of the former one until the next pod.
	n.put("config", `{"Network": "10.6.0.0/16", "Backend": {"Type": "vxlan"}}`)
	c.stop(daemon)
	daemon = c.start(args...)
	n.waitFile(c.confFile(), `"10.6.`)
	left := first.gateway()
	check(t, daemon.WaitLog(n.ctx, "cni0: its address "+left.String()+" is not of this host's subnet 10.6."))
	third := c.addFor("third", daemon)
	if has, err := c.Addrs("cni0"); err != nil || slices.Contains(has, left) {
		t.Errorf("cni0 has the addresses %s (%v)", has, err)
	}
	check(t, daemon.WaitLog(n.ctx, "no longer in the way: cni0: its address "+left.String()))
	for _, p := range []*pod{first, second, third} {
		p.del()
	}
	if got := c.remains(); len(got) > 0 {
		t.Errorf("of pods that are gone there is %q", got)
	}

	c.stop(daemon)
	if _, err := os.Stat(c.confFile()); err != nil {
		t.Errorf("after the daemon was stopped: %v", err)
	}
	cleanup := append([]string{daemonBinary, "-cleanup", "-subnet-file=" + daemon.SubnetFile, "-state-dir=" + filepath.Join(c.Dir, "state")}, args...)
	check(t, os.WriteFile(c.confFile(), append([]byte(read(t, c.confFile())), '\n'), 0o644))
	if out := c.command(nil, cleanup...); !strings.Contains(out, "left "+c.confFile()) {
		t.Errorf("of a file that someone has changed it says: %s", out)
	}
	daemon = c.start(args...)
	c.stop(daemon)
	if out := c.command(nil, cleanup...); !strings.Contains(out, "removed "+c.confFile()) {
		t.Errorf("of the daemon's file it says: %s", out)
	}
	if _, err := os.Stat(c.confFile()); !os.IsNotExist(err) {
		t.Errorf("after the cleanup: %v", err)
	}
}

// stop ends a daemon, as systemctl does.
func (c *cniHost) stop(d *lab.Daemon) {
	c.n.t.Helper()
	if code, err := d.Stop(soon); code != 0 || err != nil {
		c.n.t.Fatalf("it ended with %d: %v", code, err)
	}
}

// addFor makes a pod, which must have what the daemon says.
func (c *cniHost) addFor(name string, daemon *lab.Daemon) *pod {
	c.n.t.Helper()
	p := c.add(name)
	p.wantInSubnet(daemon.Env())
	return p
}

// gateway is the address that the pod's host has in the pod's subnet.
func (p *pod) gateway() netip.Prefix {
	subnet := netip.PrefixFrom(p.addr, 24).Masked()
	return netip.PrefixFrom(subnet.Addr().Next(), subnet.Bits())
}

// waitFile waits until a file has a text.
func (n *network) waitFile(path, text string) {
	n.t.Helper()
	n.wait(soon, path, func() string {
		content, err := os.ReadFile(path)
		if !strings.Contains(string(content), text) {
			return fmt.Sprintf("it has no %s (%v):\n%s", text, err, content)
		}
		return ""
	})
}

// A container runtime takes what the daemon has written: a container on one host reaches the
// bridge on the other.
func TestContainerdTakesCNIConfFile(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	n.configure("10.5.0.0/16", "host-gw")
	var containers []func(args ...string) string
	var envs []map[string]string
	for _, h := range n.hosts {
		c := h.installCNIFor("bridge")
		envs = append(envs, c.start("-cni-conf-file="+c.confFile()).Env())
		// ctr looks where runtimes do, and calls the plugins itself.
		const script = `mount -t tmpfs cni /mnt && mkdir /mnt/etc /mnt/work /mnt/opt
mount -t overlay -o lowerdir=/etc,upperdir=/mnt/etc,workdir=/mnt/work cni /etc && mount --bind /mnt/opt /opt
mkdir -p /etc/cni /opt/cni && ln -s "$1" /etc/cni/net.d && ln -s "$2" /opt/cni/bin
mount --bind "$3" /var/lib && shift 3 && exec "$@"`
		ctr := h.startContainerd("unshare", "--mount", "sh", "-euc", script, "sh", c.config, c.plugins, c.lib)
		root := filepath.Join(h.Dir, "root")
		check(t, os.MkdirAll(filepath.Join(root, "bin"), 0o755))
		busybox, err := exec.LookPath("busybox")
		check(t, err)
		check(t, os.WriteFile(filepath.Join(root, "bin/busybox"), []byte(read(t, busybox)), 0o755))
		containers = append(containers, func(args ...string) string {
			t.Helper()
			return ctr(append([]string{"run", "--rm", "--cni", "--fifo-dir", h.Dir, "--rootfs", root, "container", "/bin/busybox"}, args...)...)
		})
	}
	for i, run := range containers {
		own := netip.MustParsePrefix(envs[i]["FLANNEL_SUBNET"])
		out := run("ip", "address", "show", "eth0")
		_, addr, _ := strings.Cut(out, "inet ")
		addr, _, _ = strings.Cut(addr, " ")
		if got, err := netip.ParsePrefix(addr); err != nil || got.Masked() != own.Masked() || !strings.Contains(out, "mtu "+envs[i]["FLANNEL_MTU"]) {
			t.Errorf("the container has %v (%v), and is to be in %s:\n%s", got, err, own, out)
		}
	}
	for i, run := range containers { // by now both hosts have cni0
		run("ping", "-c", "1", "-W", "5", netip.MustParsePrefix(envs[1-i]["FLANNEL_SUBNET"]).Addr().String())
	}
}

// A host whose pods were made by the plugin flannel comes to have them made by the daemon's
// file: it gives no address away that a pod has, and takes those pods down as others.
func TestCNIConfFileTakesOver(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	n.configure("10.5.0.0/16", "vxlan")
	c := n.hosts[0].installCNI()
	config := filepath.Join(c.Dir, "net.d")
	check(t, os.CopyFS(config, os.DirFS(c.config)))
	c.config = config
	daemon := c.start()
	const port8080 = `CAP_ARGS={"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}`
	former := c.add("former", port8080)
	former.wantInSubnet(daemon.Env())
	c.stop(daemon)
	daemon = c.start("-cni-conf-file=" + c.confFile())
	n.waitFile(c.confFile(), `"bridge"`)
	later := c.addFor("later", daemon)
	if later.addr == former.addr {
		t.Fatalf("two pods have the address %s", later.addr)
	}
	later.wantReaches(former)
	former.wantReaches(later)
	former.del()
	later.del()
	const note = "/cni/flannel/" // of the former plugin, which is of no use any more
	if got := slices.DeleteFunc(c.remains(), func(path string) bool { return strings.HasPrefix(path, note) }); len(got) > 0 {
		t.Errorf("of pods that are gone there is %q", got)
	}
}

func followCNI(g *guide) {
	g.lay("192.168.0.2", 2, nil)
	g.startEtcd()
	g.install(`{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}`)
	h, other := g.nodes[0], g.nodes[1]
	for _, h := range g.nodes {
		check(g.t, os.CopyFS(filepath.Join(h.sys.Root, "opt/cni/bin"), os.DirFS("../build/cni")))
		h.run("ln", "-s", "/opt/cni/bin/cnitool", "/usr/local/bin/")
	}
	g.run("mkdir -p /etc/cni/net.d", h, other)
	g.run("ip netns add pod", h, other)
	g.run("$ ip netns exec pod ip address show eth0", h)
	g.wantPodsPing()
	g.run("NETCONFPATH=", h, other)
	for _, h := range g.nodes {
		if left := h.run("ip", "netns") + h.run("sh", "-c", "ip link | grep veth || true"); left != "" {
			g.t.Errorf("of a pod that is gone there is\n%s", left)
		}
	}
	g.run("$ cat /etc/cni/net.d/10-flannel.conflist", h)
	h.wantMissingPluginNamed()

	g.run("cat >/etc/flannel/cni.tmpl", h, other)
	for _, h := range g.nodes {
		g.makePod(h, "cbr0")
		if links := h.run("ip", "netns", "exec", "pod", "ip", "route"); !strings.Contains(links, "default via") {
			g.t.Errorf("a pod of the own template has the routes\n%s", links)
		}
	}
	g.wantPodsPing()
	for _, h := range g.nodes {
		g.removePod(h, "cbr0")
		h.run("ip", "link", "delete", "cni0")
		h.run("sed", "-i", "s,^FLANNELD_CNI_CONF_TEMPLATE=.*,FLANNELD_CNI_CONF_TEMPLATE=macvlan,", optionsFile)
		h.run("systemctl", "restart", "flanneld")
	}
	g.run(". /run/flannel/subnet.env")
	for _, h := range g.nodes {
		g.makePod(h, "cbr0")
		if links := h.run("ip", "netns", "exec", "pod", "ip", "-d", "link", "show", "eth0"); !strings.Contains(links, "macvlan mode bridge") {
			g.t.Errorf("a pod of the template macvlan has\n%s", links)
		}
	}
	g.wantPodsPing()
	for _, h := range g.nodes {
		g.removePod(h, "cbr0")
		h.run("ip", "link", "delete", "pods")
		h.run("sed", "-i", "/^FLANNELD_CNI/d", optionsFile)
		h.run("systemctl", "restart", "flanneld")
	}

	g.run("install", h, other)
	for _, h := range g.nodes {
		g.makePod(h, "flannel")
	}
	g.wantPodsPing()
}

// wantMissingPluginNamed takes a plugin away, as the upgrade of a package may, and brings it
// back.
func (h *host) wantMissingPluginNamed() {
	h.n.t.Helper()
	for _, elsewhere := range []string{"/usr/lib/cni", "/usr/libexec/cni"} { // the system has this machine's /usr
		if _, err := os.Stat(elsewhere); err == nil {
			return
		}
	}
	says := func(text string) {
		h.n.t.Helper()
		h.n.wait(soon, "the journal to have "+text, func() string {
			if journal := h.journal(); !strings.Contains(journal, text) {
				return journal
			}
			return ""
		})
	}
	const problem = "/etc/cni/net.d/10-flannel.conflist: pods need CNI plugins that are in none of /opt/cni/bin, /usr/lib/cni, /usr/libexec/cni: install portmap"
	h.run("mv", "/opt/cni/bin/portmap", "/opt/cni/")
	says("packets are kept from their way: " + problem)
	h.run("mv", "/opt/cni/portmap", "/opt/cni/bin/")
	says("no longer in the way: " + problem)
}

// makePod does what cni.md says of cnitool, for a network of this name.
func (g *guide) makePod(h *host, network string) {
	g.t.Helper()
	g.shell(h, strings.ReplaceAll(g.other("cni.md", "ip netns add pod"), "cbr0", network))
}

func (g *guide) removePod(h *host, network string) {
	g.t.Helper()
	g.shell(h, strings.ReplaceAll(g.other("cni.md", "NETCONFPATH="), "cbr0", network))
}

// wantPodsPing checks that the pod of the first host reaches that of the second, and what is
// outside.
func (g *guide) wantPodsPing() {
	g.t.Helper()
	h, other := g.nodes[0], g.nodes[1]
	addr := strings.Fields(other.run("ip", "netns", "exec", "pod", "ip", "-4", "-o", "address", "show", "eth0"))[3]
	to := netip.MustParsePrefix(addr).Addr().String()
	h.run("ip", "netns", "exec", "pod", "busybox", "ping", "-c", "1", "-W", "5", to)
	h.run("ip", "netns", "exec", "pod", "busybox", "ping", "-c", "1", "-W", "5", g.server.Addr.String())
}

// The addresses of pods that are gone go to others, also in a subnet that is small.
func TestCNIAddressesAreUsedAgain(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	n.configure("10.5.0.0/27", "host-gw") // the subnets are /29
	c := n.hosts[0].installCNI()
	env := c.start().Env()
	const most = 5 // of 8 addresses; the first, the last and the bridge's are not for pods
	for round := range 2 {
		var pods []*pod
		given := map[netip.Addr]bool{}
		for i := range most {
			p := c.add(fmt.Sprintf("pod%d-%d", round, i))
			p.wantInSubnet(env)
			given[p.addr] = true
			pods = append(pods, p)
		}
		if len(given) != most {
			t.Errorf("%d pods have the addresses %v", most, given)
		}
		for _, p := range pods {
			p.del()
		}
	}
}
