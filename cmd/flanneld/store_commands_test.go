package main_test

import (
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/lab"
)

// runCommand runs a command on a host, as its user would, and returns what it prints.
func (h *node) runCommand(command string) string {
	h.n.t.Helper()
	p := must(h.Start("sh", []string{"sh", "-c", command}, nil, lab.ProcessOptions{}))(h.n.t)
	if code := must(p.Wait(h.n.ctx))(h.n.t); code != 0 {
		h.n.t.Fatalf("%s: status %d, %s", command, code, p.Log())
	}
	return p.Log()
}

// statusAfter waits until the status says something, and returns what follows.
func (h *node) statusAfter(text string) (rest string) {
	h.n.t.Helper()
	h.n.wait(soon, "the status to say "+text, func() string {
		_, after, found := strings.Cut(h.daemon.Status(), text)
		if rest = after; !found {
			return "status is " + h.daemon.Status()
		}
		return ""
	})
	return rest
}

// The command that a message names writes a configuration, also through TLS, as a user,
// and where the prefix would mean something to a shell.
func TestCommandWritesConfiguration(t *testing.T) {
	inParallel(t, slowVariants, testCommandWritesConfiguration)
}

func testCommandWritesConfiguration(t *testing.T, v variant) {
	n := newLab(t, v)
	ca := must(lab.NewCA(t.TempDir(), "ca"))(t)
	client := must(ca.Client("host's own", lab.Valid))(t)
	n.startEtcd(lab.EtcdOptions{
		Server: must(ca.Server("etcd", lab.Valid, n.server.Addr))(t), ClientCA: ca.Cert, Client: client,
	})
	h := n.addNode(lab.HostOptions{}, "-etcd-prefix=/a net's; own/$x", "-etcd-cafile="+ca.Cert, "-etcd-certfile="+client.Cert, "-etcd-keyfile="+client.Key)
	h.start()
	h.runCommand(h.statusAfter("; write one: "))
	h.waitReady()
	if got := h.daemon.Env()["FLANNEL_NETWORK"]; got != "10.5.0.0/16" {
		t.Errorf("the network is %s", got)
	}
}

// The commands that messages name mend what is in the configuration's place.
func TestCommandReplacesDirectory(t *testing.T) {
	t.Parallel()
	n := newLab(t, hostGW)
	n.startEtcd(lab.EtcdOptions{})
	n.put("config/x", "{")
	h := n.addNode(lab.HostOptions{})
	h.start()
	h.runCommand(h.statusAfter("; replace it by a key: "))
	h.waitReady()

	check(t, n.admin.put(n.ctx, "/file", "x", 0))
	h = n.addNode(lab.HostOptions{}, "-etcd-prefix=/file")
	h.start()
	h.runCommand(until(h.statusAfter("(delete it: "), ")"))
	h.runCommand(h.statusAfter("; write one: "))
	h.waitReady()
}

func until(text, end string) string {
	before, _, _ := strings.Cut(text, end)
	return before
}

var firstCommand = regexp.MustCompile(`^[^;&]+`)

var asRoot = regexp.MustCompile(`--user(name)?=root`)

// The commands that a refusal names give the permission that is missing.
func TestCommandGrantsPermission(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		api, user string
		made      bool // the role, by the same commands for another user
	}{
		"version 2":                         {api: "2", user: "elsewhere"},
		"version 2, the second user":        {api: "2", user: "elsewhere", made: true},
		"version 3":                         {api: "3", user: "elsewhere"},
		"without a role":                    {api: "3", user: "roleless"},
		"without a role, as it was revoked": {api: "3", user: "roleless", made: true},
		"with the role to read":             {api: "3", user: "reader"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newLab(t, hostGW)
			n.startEtcd(lab.EtcdOptions{})
			n.guarded(n.etcd)
			h := n.addNode(lab.HostOptions{}, "-etcd-api="+c.api, "-etcd-username="+c.user, "-etcd-password=open-sesame")
			h.start()
			command := asRoot.ReplaceAllString(until(h.statusAfter("grant it: "), ")"), "$0:"+rootPassword)
			if c.made {
				h.runCommand(firstCommand.FindString(command))
			}
			patient := "etcdctl --command-timeout=30s" // checking a password takes long on a busy machine
			if c.api == "2" {
				patient = "etcdctl --timeout=30s --total-timeout=60s"
			}
			h.runCommand(strings.ReplaceAll(command, "etcdctl", patient))
			h.waitReady()
		})
	}
}

// The commands that a full database is mended by are in the message.
func TestCommandsMakeRoom(t *testing.T) {
	t.Parallel()
	n := newLab(t, vxlan)
	n.startEtcd(lab.EtcdOptions{Args: []string{"--quota-backend-bytes=1048576"}})
	n.put("config", n.config(nil))
	(&storeFailures{network: n}).fill(n.etcd)
	h := n.addNode(lab.HostOptions{})
	h.start()
	text := h.statusAfter("its alarm disarmed: ")
	commands := regexp.MustCompile(`etcdctl --endpoints=\S+ [a-z]+( [a-z]+)?( REVISION| -w json)?`).FindAllString(until(text, "; or start"), -1)
	if len(commands) != 4 {
		t.Fatalf("the commands are %q", commands)
	}
	status := h.runCommand(commands[1])
	revision := regexp.MustCompile(`"revision":(\d+)`).FindStringSubmatch(status)
	if revision == nil {
		t.Fatalf("no revision in %s", status)
	}
	for _, command := range []string{strings.Replace(commands[0], "REVISION", revision[1], 1), commands[2], commands[3]} {
		h.runCommand(command)
	}
	h.waitReady()
}

// A learner answers no command either: the one that makes a member of it goes to another.
func TestCommandPromotesLearner(t *testing.T) {
	t.Parallel()
	n := newLab(t, hostGW)
	f := &storeFailures{network: n}
	one, two := f.host("one"), f.host("two")
	member := must(n.lab.StartCluster(n.ctx, []*lab.Host{one}, lab.EtcdOptions{}))(t)[0]
	c := must(member.ClientV3())(t)
	defer func() { check(t, c.Close()) }()
	_, err := c.Put(n.ctx, keyPrefix+"/config", n.config(nil))
	check(t, err)
	peer, client := "http://"+two.Addr.String()+":2380", "http://"+two.Addr.String()+":2379"
	learner := must(c.MemberAddAsLearner(n.ctx, []string{peer}))(t).Member
	must(two.Start("etcd", []string{
		must(filepath.Abs("../../build/etcd"))(t), "--name=two", "--data-dir=" + filepath.Join(two.Dir, "etcd"), "--unsafe-no-fsync",
		"--listen-client-urls=" + client, "--advertise-client-urls=" + client, "--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=one=http://" + one.Addr.String() + ":2380,two=" + peer, "--initial-cluster-state=existing",
	}, nil, lab.ProcessOptions{}))(t)

	h := n.addNode(lab.HostOptions{}, "-etcd-api=3", "-etcd-endpoints="+client)
	h.start()
	text := h.statusAfter(client + ": it is a learner, which serves no clients: rpc not supported for learner (name the other members in -etcd-endpoints, or promote it: ")
	promote, text, _ := strings.Cut(text, ", with the ID that ")
	list := until(text, " shows")
	atMember := func(command string) string { return strings.Replace(command, "MEMBER", member.Endpoint(), 1) }
	id := strconv.FormatUint(learner.ID, 16)
	if listed := h.runCommand(atMember(list)); !strings.Contains(listed, id) {
		t.Fatalf("%s prints %s", list, listed)
	}
	h.runCommand(strings.Replace(atMember(promote), "ID", id, 1))
	h.waitReady()
}

// While etcd is away, the log says so once, with the endpoint, the cause and the next step,
// and the status for as long as it lasts; and once that it is over.
func TestStoreIsBack(t *testing.T) { inParallel(t, slowVariants, testStoreIsBack) }

func testStoreIsBack(t *testing.T, v variant) {
	n := newNetwork(t, 1, v, nil)
	h := n.nodes[0]
	before := h.daemon.Status()
	n.etcd.Kill()
	refused := n.etcd.Endpoint() + ": connection refused (nothing listens there: start etcd"
	n.wait(soon, "the status to say why", func() string {
		return lacksAll(h.daemon.Status(), []string{", etcd cannot be used since ", refused})
	})
	h.waitLog(refused)
	n.pause(5 * time.Second)
	check(t, n.etcd.Start(n.ctx))
	h.waitLog("etcd reachable again after ")
	n.wait(soon, "the status as before", func() string {
		if s := h.daemon.Status(); s != before {
			return "status is " + s
		}
		return ""
	})
	n.pause(time.Second)
	for text, most := range map[string]int{"etcd reachable again after ": 1, "trying again": 2} { // that it closed the connection, too
		if got := strings.Count(h.daemon.Log(), text); got < 1 || got > most {
			t.Errorf("the log says %d times %q", got, text)
		}
	}
}

// An endpoint that fails while another one answers is named once, with what was seen.
func TestFailingEndpointIsNamed(t *testing.T) {
	inParallel(t, slowVariants, testFailingEndpointIsNamed)
}

func testFailingEndpointIsNamed(t *testing.T, v variant) {
	n := newConfigured(t, v, nil)
	dead := strings.Replace(n.etcd.Endpoint(), ":2379", ":4713", 1)
	said := 0
	for range 20 { // each begins with one of the two at random
		h := n.addNode(lab.HostOptions{}, "-etcd-endpoints="+dead+","+n.etcd.Endpoint())
		h.start()
		h.waitReady()
		line := "going on with the endpoint " + n.etcd.Endpoint() + ", as others fail: " + dead + ": connection refused (nothing listens there"
		got := strings.Count(h.daemon.Log(), line)
		if got > 1 {
			t.Errorf("the log says it %d times", got)
		}
		said += got
	}
	if said == 0 {
		t.Error("no host has said it")
	}
}

// What stays as it is, is said once a minute at most, whatever in it is another each time:
// the subnet that is asked for, the clock.
func TestSteadyFailureIsQuiet(t *testing.T) {
	t.Parallel()
	n := newLab(t, hostGW)
	ca := must(lab.NewCA(t.TempDir(), "ca"))(t)
	n.startEtcd(lab.EtcdOptions{})
	n.guarded(n.etcd)
	old := must(n.lab.AddHost("old", n.sw, lab.HostOptions{}))(t)
	expired := must(n.lab.StartEtcd(n.ctx, old, lab.EtcdOptions{Server: must(ca.Server("old", lab.Expired, old.Addr))(t)}))(t)
	for _, args := range [][]string{
		{"-etcd-endpoints=" + n.etcd.Endpoint(), "-etcd-api=3", "-etcd-username=reader", "-etcd-password=open-sesame"},
		{"-etcd-endpoints=" + expired.Endpoint(), "-etcd-cafile=" + ca.Cert},
		{"-etcd-endpoints=http://192.168.0.2:4713,http://192.168.0.2:4714"},
	} {
		n.addNode(lab.HostOptions{}, args...).start()
	}
	for _, h := range n.nodes {
		h.waitLog("trying again, nothing changes meanwhile")
	}
	n.pause(35 * time.Second)
	for _, h := range n.nodes {
		if c := strings.Count(h.daemon.Log(), "trying again, nothing changes meanwhile"); c != 1 {
			t.Errorf("%s has said it %d times", h.Name, c)
		}
		if c := len(h.daemon.Notify.Messages()); c > 5 {
			t.Errorf("%s has told the service manager %d times", h.Name, c)
		}
	}
}
