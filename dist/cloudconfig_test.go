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

// cloud-init takes the file as valid, and does not take everything.
func TestCloudConfigSchema(t *testing.T) {
	schema := func(path string) (string, error) {
		argv := runCloudInit("..", "schema", "--config-file", path)
		out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
		return string(out), err
	}
	if out, err := schema("cloud-config.yaml"); err != nil || out != "Valid cloud-config: cloud-config.yaml\n" {
		t.Errorf("%v: %s", err, out)
	}
	wrong := filepath.Join(t.TempDir(), "wrong.yaml")
	text := strings.ReplaceAll(read(t, "cloud-config.yaml"), "permissions: ", "permission: ")
	check(t, os.WriteFile(wrong, []byte(text), 0o600))
	if out, err := schema(wrong); err == nil {
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

// Machines that are set up by cloud-init with the file make a cluster.
func TestCloudConfig(t *testing.T) {
	t.Parallel()
	archive := one(t, release(t, testVersion), "*.tar.gz")
	n := newNetwork(t)
	const etcdURL = "https://github.com/etcd-io/etcd/releases/download/v3.6.16/"
	userData := strings.ReplaceAll(read(t, "cloud-config.yaml"), etcdURL, "http://node1:8000/")
	if userData == read(t, "cloud-config.yaml") {
		t.Fatalf("the file does not have etcd from %s", etcdURL)
	}
	n.serveArchives(archive)
	names := fmt.Sprintf("127.0.0.1 localhost\n%s node1\n%s node2\n", n.hosts[0].Addr, n.hosts[1].Addr)
	for i, h := range n.hosts {
		name := fmt.Sprintf("node%d", i+1)
		h.boot(map[string]string{
			"/etc/hosts":                            names,
			"/etc/hostname":                         name,
			"/etc/cloud/cloud.cfg":                  cloudSettings,
			"/var/lib/cloud/seed/nocloud/meta-data": "instance-id: " + name,
			"/var/lib/cloud/seed/nocloud/user-data": userData,
		})
		check(t, os.CopyFS(filepath.Join(h.sys.Root, cloudInit), os.DirFS(filepath.Join("..", cloudInit))))
		for _, stage := range [][]string{{"init", "--local"}, {"init"}, {"modules", "--mode=config"}, {"modules", "--mode=final"}} {
			h.run(runCloudInit("/", stage...)...)
		}
	}
	for _, h := range n.hosts {
		h.waitShow("flanneld", "ActiveState", "active")
		h.waitShow("docker", "ActiveState", "active")
		if out := h.run("systemd-analyze", "verify", "--recursive-errors=no", "--man=no", "etcd.service", "flannel-config.service", "flanneld.service", "docker.service"); out != "" {
			t.Errorf("of the units, systemd says: %s", out)
		}
		subnet := h.env()["FLANNEL_SUBNET"]
		if addrs := h.run("ip", "-4", "-o", "addr", "show", "dev", "docker0"); !strings.HasPrefix(subnet, "10.5.") || !strings.Contains(addrs, " "+subnet+" ") {
			t.Errorf("docker0 of %s has %s, want %s", h.Name, addrs, subnet)
		}
	}
	for i, h := range n.hosts {
		other := netip.MustParsePrefix(n.hosts[1-i].env()["FLANNEL_SUBNET"])
		check(t, h.WaitPing(n.ctx, other.Addr()))
	}
	if state := n.hosts[1].show("etcd", "ActiveState"); state != "inactive" {
		t.Errorf("on the second machine etcd is %s", state)
	}
	n.testConfigStays()
	n.testEtcdComesBack()
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
