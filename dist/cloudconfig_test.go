package dist_test

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"flanneld/pkg/lab"
)

// cloudInit is where cloud-init is unpacked, here and in the lab's systems.
const cloudInit = "build/cloud-init"

// runCloudInit is a command of cloud-init, unpacked below a directory.
func runCloudInit(dir string, args ...string) []string {
	root := filepath.Join(dir, cloudInit)
	return append([]string{
		"env", "PYTHONPATH=" + filepath.Join(root, "usr/lib/python3/dist-packages"),
		"/usr/bin/python3", filepath.Join(root, "usr/bin/cloud-init"),
	}, args...)
}

// cloud-init does not take everything as valid.
func TestCloudConfigSchema(t *testing.T) {
	wrong := filepath.Join(t.TempDir(), "wrong.yaml")
	text := strings.ReplaceAll(read(t, "cloud-config.yaml"), "permissions: ", "permission: ")
	check(t, os.WriteFile(wrong, []byte(text), 0o600))
	argv := runCloudInit("..", "schema", "--config-file", wrong)
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err == nil {
		t.Errorf("of a key that there is not, cloud-init says: %s", out)
	}
}

// cloudSettings say where cloud-init finds what it is to do, and which of its modules
// do it: those of the file, but for the one that installs packages. Where there is no
// internet that would fail; what they have is in this machine's /usr.
const cloudSettings = `datasource_list: [NoCloud]
network: {config: disabled}
cloud_init_modules: [write-files]
cloud_config_modules: [runcmd]
cloud_final_modules: [scripts-user]
system_info: {distro: debian}
`

// followCloudConfig has machines that are set up by cloud-init with the file make a cluster.
func followCloudConfig(g *guide) {
	archive := one(g.t, release(g.t, testVersion), "*.tar.gz")
	g.lay("192.168.0.2", 0, nil)
	g.startEtcd()
	userData := g.substitute(read(g.t, "cloud-config.yaml"), "https://github.com/etcd-io/etcd/releases/download/v3.6.16/", "http://node1:8000/")
	for i := range 2 {
		added, err := g.lab.AddHost(fmt.Sprintf("node%d", i+1), g.sw, lab.HostOptions{})
		check(g.t, err)
		g.hosts[i] = &host{Host: added, n: g.network}
	}
	g.serveArchives(archive)
	names := fmt.Sprintf("127.0.0.1 localhost\n%s node1\n%s node2\n", g.hosts[0].Addr, g.hosts[1].Addr)
	for i, h := range g.hosts {
		name := fmt.Sprintf("node%d", i+1)
		h.boot(map[string]string{
			"/etc/hosts":                            names,
			"/etc/hostname":                         name,
			"/etc/cloud/cloud.cfg":                  cloudSettings,
			"/var/lib/cloud/seed/nocloud/meta-data": "instance-id: " + name,
			"/var/lib/cloud/seed/nocloud/user-data": userData,
			"/root/cloud-config.yaml":               read(g.t, "cloud-config.yaml"),
		})
		check(g.t, os.CopyFS(filepath.Join(h.sys.Root, cloudInit), os.DirFS(filepath.Join("..", cloudInit))))
		h.standIn("cloud-init")
		g.dirs[h] = "/root"
	}
	first := g.hosts[0]
	if out := g.run("cloud-init schema", first); out != "Valid cloud-config: cloud-config.yaml\n" {
		g.t.Errorf("cloud-init says: %s", out)
	}
	g.run("etcdctl put", g.etcdHost())
	for _, h := range g.hosts {
		h.run(runCloudInit("/", "init", "--local")...)
		h.run(runCloudInit("/", "init")...)
		h.run(runCloudInit("/", "modules", "--mode=config")...)
		h.run(runCloudInit("/", "modules", "--mode=final")...)
	}
	for _, h := range g.hosts {
		h.waitShow("flanneld", "ActiveState", "active")
		h.waitShow("docker", "ActiveState", "active")
		if out := h.run("systemd-analyze", "verify", "--recursive-errors=no", "--man=no", "etcd.service", "flannel-config.service", "flanneld.service", "docker.service"); out != "" {
			g.t.Errorf("of the units, systemd says: %s", out)
		}
		subnet := h.env()["FLANNEL_SUBNET"]
		if addrs := h.run("ip", "-4", "-o", "addr", "show", "dev", "docker0"); !strings.HasPrefix(subnet, "10.5.") || !strings.Contains(addrs, " "+subnet+" ") {
			g.t.Errorf("docker0 of %s has %s, want %s", h.Name, addrs, subnet)
		}
		check(g.t, lab.WriteImage(g.ctx, filepath.Join(h.sys.Root, "image.tar")))
		h.docker("import", "/image.tar", "busybox")
	}
	seen := g.run("cloud-init status --wait", g.hosts[:]...)
	for _, want := range []string{"status: done", "Active: active (running)", "mtu 1450", "inet 10.5."} {
		if !strings.Contains(seen, want) {
			g.t.Errorf("there is no %q in\n%s", want, seen)
		}
	}
	for i, h := range g.hosts {
		other := netip.MustParsePrefix(g.hosts[1-i].env()["FLANNEL_SUBNET"])
		check(g.t, h.WaitPing(g.ctx, other.Addr()))
	}
	g.containers()
	if state := g.hosts[1].show("etcd", "ActiveState"); state != "inactive" {
		g.t.Errorf("on the second machine etcd is %s", state)
	}
	g.testConfigStays()
	g.testEtcdComesBack()
}

// testEtcdComesBack checks that etcd and the configuration are there after etcd could not
// be started for long.
func (n *network) testEtcdComesBack() {
	h := n.hosts[0]
	h.run("systemctl", "stop", "flannel-config", "etcd")
	h.run("rm", "-r", "/var/lib/etcd")
	var listener net.Listener
	check(n.t, h.Do(func() (err error) {
		listener, err = net.Listen("tcp4", ":2379")
		return err
	}))
	defer listener.Close()
	h.run("systemctl", "start", "--no-block", "flannel-config")
	const more = 6 // than systemd allows within ten seconds, if nothing else is said
	n.wait(soon, "etcd to be tried again", func() string {
		tries, err := strconv.Atoi(h.show("etcd", "NRestarts"))
		check(n.t, err)
		if tries < more {
			return fmt.Sprintf("it was %d times", tries)
		}
		return ""
	})
	check(n.t, listener.Close())
	h.waitShow("etcd", "ActiveState", "active")
	h.waitShow("flannel-config", "ActiveState", "active")
}

// testConfigStays checks that what is written once is not written again.
func (n *network) testConfigStays() {
	h := n.hosts[0]
	const key, changed = "/coreos.com/network/config", `{"Network": "10.5.0.0/16", "SubnetLen": 26, "Backend": {"Type": "vxlan"}}`
	etcdctl := func(args ...string) string {
		return h.run(append([]string{"env", "ETCDCTL_API=3", "etcdctl"}, args...)...)
	}
	if got := etcdctl("get", "--print-value-only", key); !strings.Contains(got, `"Network": "10.5.0.0/16"`) {
		n.t.Errorf("the configuration is %s", got)
	}
	etcdctl("put", key, changed)
	h.run("systemctl", "restart", "flannel-config")
	if got := etcdctl("get", "--print-value-only", key); got != changed {
		n.t.Errorf("after a restart the configuration is %s", got)
	}
}

// serveArchives has the first host serve what the file has the machines get: an
// archive of flanneld, and one of etcd.
func (n *network) serveArchives(flanneld string) {
	n.t.Helper()
	dir := n.t.TempDir()
	check(n.t, os.Link(flanneld, filepath.Join(dir, "flanneld-linux-amd64.tar.gz")))
	const etcd = "etcd-v3.6.16-linux-amd64"
	check(n.t, os.Mkdir(filepath.Join(dir, etcd), 0o755))
	etcdctl, err := exec.LookPath("etcdctl")
	check(n.t, err)
	for name, path := range map[string]string{"etcd": "../build/etcd-3.6", "etcdctl": etcdctl} {
		program, err := filepath.Abs(path)
		check(n.t, err)
		check(n.t, os.Symlink(program, filepath.Join(dir, etcd, name)))
	}
	out, err := exec.Command("tar", "--dereference", "--use-compress-program=gzip -1", "-C", dir, "-cf", filepath.Join(dir, etcd+".tar.gz"), etcd).CombinedOutput()
	if err != nil {
		n.t.Fatalf("tar: %v: %s", err, out)
	}
	var listener net.Listener
	check(n.t, n.hosts[0].Do(func() (err error) {
		listener, err = net.Listen("tcp4", ":8000")
		return err
	}))
	server := &http.Server{Handler: http.FileServer(http.Dir(dir))}
	go func() { _ = server.Serve(listener) }()
	n.t.Cleanup(func() { check(n.t, server.Close()) })
}
