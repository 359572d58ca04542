package dist_test

import (
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/lab"
	"flanneld/pkg/lab/fakeaws"
)

// vpc is a lab like that of aws-vpc.md: two hosts in subnets that have route tables of
// their own.
type vpc struct {
	*network
	cloud     *fakeaws.Cloud
	router    *fakeaws.Router
	instances [2]*fakeaws.Instance
	tables    [2]*fakeaws.RouteTable
}

func newVPC(t *testing.T) *vpc {
	t.Helper()
	v := &vpc{network: newLab(t), cloud: fakeaws.New(fakeaws.Options{})}
	var err error
	v.router, err = fakeaws.NewRouter(v.lab, v.cloud)
	check(t, err)
	t.Cleanup(func() { check(t, v.router.Close()) })
	network, err := v.cloud.AddVPC("10.0.0.0/16")
	check(t, err)
	var subnets [2]*fakeaws.Subnet
	for i, prefix := range []string{"10.0.1.0/24", "10.0.2.0/24"} {
		subnets[i], err = network.AddSubnet(prefix, string(rune('a'+i)))
		check(t, err)
		v.tables[i] = network.AddRouteTable()
		check(t, v.tables[i].Associate(subnets[i]))
	}
	// The second host has no role.
	for i, role := range []string{"flanneld", ""} {
		opts := fakeaws.InstanceOptions{Role: role, Metadata: fakeaws.MetadataOptions{TokensRequired: true, HopLimit: 1}}
		v.instances[i], err = v.cloud.RunInstance(subnets[i], opts)
		check(t, err)
		h, err := v.router.AddHost(fmt.Sprintf("host%d", i+1), v.instances[i])
		check(t, err)
		v.hosts[i] = &host{Host: h, n: v.network}
	}
	instance, err := v.cloud.RunInstance(subnets[0], fakeaws.InstanceOptions{})
	check(t, err)
	v.server, err = v.router.AddHost("server", instance)
	check(t, err)
	v.etcd, err = v.lab.StartEtcd(v.ctx, v.server, lab.EtcdOptions{Args: []string{v.onLocalhost()}})
	check(t, err)
	return v
}

// boot starts the daemons: one with its instance's role, one with a shared file.
func (v *vpc) boot() {
	v.t.Helper()
	const file = "/etc/flannel/aws"
	options := v.options() + strings.Join(v.router.Env(), "\n") + "\n"
	c := v.cloud.AddUser("node")
	user := fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", c.AccessKeyID, c.SecretAccessKey)
	v.hosts[0].boot(map[string]string{optionsFile: options}, "flanneld.service")
	v.hosts[1].boot(map[string]string{file: user, optionsFile: options + "AWS_SHARED_CREDENTIALS_FILE=" + file + "\n"}, "flanneld.service")
}

// subnet is that of a host.
func (v *vpc) subnet(i int) string {
	return strings.Replace(v.hosts[i].env()["FLANNEL_SUBNET"], ".1/", ".0/", 1)
}

// routes are those of a table that lead to interfaces, as DESTINATION INTERFACE.
func (v *vpc) routes(table int) []string {
	var all []string
	for _, r := range v.tables[table].Routes() {
		if r.InterfaceID != "" {
			all = append(all, r.Dst.String()+" "+r.InterfaceID)
		}
	}
	return all
}

// waitRoutes waits until a table has just the routes of some hosts.
func (v *vpc) waitRoutes(table int, hosts ...int) {
	v.t.Helper()
	var want []string
	for _, i := range hosts {
		want = append(want, v.subnet(i)+" "+v.instances[i].Interface().ID)
	}
	v.wait(soon, fmt.Sprintf("the routes %q", want), func() string {
		got := v.routes(table)
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			return fmt.Sprintf("they are %q", got)
		}
		return ""
	})
}

func followAWSVPC(g *guide) {
	v := newVPC(g.t)
	g.network = v.network
	first, second := v.hosts[0], v.hosts[1]
	v.boot()
	g.run("etcdctl put", &host{Host: v.server, n: v.network})
	for i, h := range v.hosts {
		h.waitShow("flanneld", "ActiveState", "active")
		v.waitRoutes(i, i)
	}
	here := func(beginning string) string {
		g.t.Helper()
		script, _ := g.next(beginning)
		return g.substitute(script, v.names(script)...)
	}
	admin := g.text("aws iam create-role")
	v.unknown(admin)
	for _, beginning := range []string{"aws ec2 associate-iam-instance-profile", "aws ec2 authorize-security-group-ingress"} {
		script, _ := g.next(beginning)
		admin += script
		v.unknown(g.substitute(script, v.names(script)...))
	}

	first.run("env", "ETCDCTL_ENDPOINTS="+v.etcd.Endpoint(), "etcdctl", "put", "/coreos.com/network/config", strings.TrimSpace(here(`{"Network": `)))
	for _, h := range v.hosts {
		h.run("systemctl", "restart", "flanneld")
		h.addPod("pod")
	}
	v.wantPings()
	if mtu := first.env()["FLANNEL_MTU"]; mtu != "9001" {
		g.t.Errorf("the MTU is %s", mtu)
	}
	for i := range v.tables {
		v.waitRoutes(i, 0, 1)
	}

	script, _ := g.next("aws ec2 modify-instance-metadata-options")
	admin += script
	v.unknown(g.substitute(script, v.names(script)...))
	v.testHopLimit()
	v.wantSent("AssociateIamInstanceProfile", "AuthorizeSecurityGroupIngress", "ModifyInstanceMetadataOptions")

	shown := g.followIn(v.shell, here("$ aws ec2 describe-route-tables"))
	for _, route := range v.routes(0) {
		if line := strings.ReplaceAll(route, " ", "\t") + "\tactive\n"; !strings.Contains(shown, line) {
			g.t.Errorf("there is no %q in\n%s", line, shown)
		}
	}
	journal := first.journal()
	if line := missing(here("this is the instance"), journal); line != "" {
		g.t.Errorf("the log has no %q:\n%s", line, journal)
	}

	g.run("systemctl disable --now", second)
	v.shell(here("aws ec2 delete-route"))
	v.waitRoutes(0, 0)
	v.waitRoutes(1, 0, 1)
	first.run("systemctl", "stop", "flanneld")
	check(g.t, v.tables[0].CreateRoute("10.9.0.0/16", "igw-00000000000000001"))
	v.shell(here("for dst in"))
	v.waitRoutes(0)
	if n := len(v.tables[0].Routes()); n != 2 {
		g.t.Errorf("%d routes are left: %+v", n, v.tables[0].Routes())
	}
	if _, err := exec.LookPath("moto_server"); err == nil {
		v.testMoto(admin)
	} else {
		g.t.Log("not compared with moto:", err)
	}
}

// names are what there is in the lab for what a text of the document names, as pairs.
func (v *vpc) names(text string) (pairs []string) {
	all := []string{
		"rtb-0123456789abcdef0", v.tables[0].ID, "rtb-0fedcba9876543210", v.tables[1].ID,
		"eni-0123456789abcdef0", v.instances[0].Interface().ID, "eni-0fedcba9876543210", v.instances[1].Interface().ID,
		"i-0123456789abcdef0", v.instances[0].ID,
		"10.5.34.0/24", v.subnet(0), "10.5.12.0/24", v.subnet(1),
	}
	for pair := range slices.Chunk(all, 2) {
		if strings.Contains(text, pair[0]) {
			pairs = append(pairs, pair...)
			text = strings.ReplaceAll(text, pair[0], "")
		}
	}
	return pairs
}

// unknown runs commands that the cloud of the lab gets, and does not know: it has neither IAM
// nor what is asked of EC2 here.
func (v *vpc) unknown(script string) {
	v.t.Helper()
	v.shell(`aws() {
	! out=$(command aws --endpoint-url http://` + fakeaws.EndpointAddr + ` "$@" 2>&1)
	case $out in
	*"An error occurred (NoSuchVersion)"*|*"An error occurred (InvalidAction)"*) ;;
	*) printf %s "$out"; exit 1
	esac
}
` + script)
}

// wantSent checks that EC2 got calls of operators, each once.
func (v *vpc) wantSent(want ...string) {
	v.t.Helper()
	var sent []string
	for _, c := range v.cloud.Calls() {
		if slices.Contains(want, c.Action) {
			sent = append(sent, c.Action)
		}
	}
	if !slices.Equal(sent, want) {
		v.t.Errorf("to EC2 was sent %q, want %q", sent, want)
	}
}

// shell runs commands as an operator who may do everything.
func (v *vpc) shell(script string) string {
	v.t.Helper()
	c := v.cloud.AddUser("operator")
	env := []string{"AWS_ACCESS_KEY_ID=" + c.AccessKeyID, "AWS_SECRET_ACCESS_KEY=" + c.SecretAccessKey, "AWS_DEFAULT_REGION=" + v.cloud.Region}
	return v.hosts[0].aws(env, "http://"+fakeaws.EndpointAddr, script)
}

// aws runs commands in the repository, in which aws has this endpoint.
func (h *host) aws(env []string, endpoint, script string) string {
	h.n.t.Helper()
	root, err := filepath.Abs("..")
	check(h.n.t, err)
	env = append([]string{"AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null", "AWS_PAGER="}, env...)
	return h.command(env, "/bin/sh", "-euc", "cd "+root+"\naws() { command aws --endpoint-url "+endpoint+" \"$@\"; }\n"+script)
}

// testHopLimit checks that with the hop limit of the document, and not with another
// one, the metadata service is for the host alone.
func (v *vpc) testHopLimit() {
	v.t.Helper()
	client := &http.Client{
		Transport: &http.Transport{DialContext: v.hosts[0].pod.DialContext, DisableKeepAlives: true},
		Timeout:   2 * time.Second,
	}
	for _, limit := range []int{2, 1} {
		v.instances[0].SetMetadata(fakeaws.MetadataOptions{TokensRequired: true, HopLimit: limit})
		r, err := http.NewRequestWithContext(v.ctx, http.MethodPut, "http://"+fakeaws.MetadataAddr+"/latest/api/token", nil)
		check(v.t, err)
		r.Header.Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "60")
		answer, err := client.Do(r)
		if err == nil {
			check(v.t, answer.Body.Close())
		}
		if reaches := err == nil; reaches != (limit == 2) {
			v.t.Errorf("with a hop limit of %d the answer with a token reaches a pod: %v (%v)", limit, reaches, err)
		}
	}
}

// testMoto runs the commands with moto in the place of the cloud.
func (v *vpc) testMoto(script string) {
	v.t.Helper()
	machine, err := v.lab.AddMachine("moto")
	check(v.t, err)
	server, err := machine.Start("moto_server", []string{"moto_server", "-H", "127.0.0.1", "-p", "80"}, nil, lab.ProcessOptions{})
	check(v.t, err)
	check(v.t, server.WaitLog(v.ctx, "Running on"))
	h := &host{Host: machine, n: v.network}
	env := []string{"AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test", "AWS_DEFAULT_REGION=" + v.cloud.Region}
	shell := func(script string) string {
		v.t.Helper()
		return strings.TrimSpace(h.aws(env, "http://127.0.0.1", script))
	}
	instance := shell("aws --output text ec2 run-instances --image-id ami-12c6146b --query Instances[].InstanceId")
	group := shell("aws --output text ec2 create-security-group --group-name hosts --description hosts --query GroupId")
	shell(strings.NewReplacer("i-0123456789abcdef0", instance, "sg-0123456789abcdef0", group).Replace(script))
	for query, want := range map[string]string{
		"iam get-role-policy --role-name flanneld --policy-name flanneld --query 'length(PolicyDocument.Statement[0].Action)'": "6",
		"ec2 describe-iam-instance-profile-associations --query IamInstanceProfileAssociations[].InstanceId":                   instance,
	} {
		if got := shell("aws --output text " + query); got != want {
			v.t.Errorf("aws %s: %q, want %q", query, got, want)
		}
	}
}
