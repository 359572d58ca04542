package dist_test

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/lab"
	"flanneld/pkg/lab/fakeaws"

	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
)

const awsDocument = "Documentation/aws-vpc.md"

// vpc is a lab like that of aws-vpc.md: two hosts in subnets that have route tables of
// their own.
type vpc struct {
	*examples
	cloud     *fakeaws.Cloud
	router    *fakeaws.Router
	instances [2]*fakeaws.Instance
	tables    [2]*fakeaws.RouteTable
}

func newVPC(t *testing.T) *vpc {
	t.Helper()
	v := &vpc{
		examples: &examples{network: newLab(t), ran: make(map[[2]string]bool)},
		cloud:    fakeaws.New(fakeaws.Options{}),
	}
	v.blocks = map[string][]block{awsDocument: blocks(t, "../"+awsDocument)}
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
	v.etcd, err = v.lab.StartEtcd(v.ctx, v.server, lab.EtcdOptions{})
	check(t, err)
	return v
}

// credentials are variables that have those of a user.
func (v *vpc) credentials(user string) []string {
	c := v.cloud.AddUser(user)
	return []string{"AWS_ACCESS_KEY_ID=" + c.AccessKeyID, "AWS_SECRET_ACCESS_KEY=" + c.SecretAccessKey}
}

// boot starts the daemons: one with its instance's role, one with a shared file.
func (v *vpc) boot() {
	v.t.Helper()
	const file = "/etc/flannel/aws"
	options := v.options() + strings.Join(v.router.Env(), "\n") + "\n"
	user := "[default]\n" + strings.ToLower(strings.Join(v.credentials("node"), "\n")) + "\n"
	user = strings.Replace(user, "akia", "AKIA", 1)
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

// The commands in aws-vpc.md work, and what is shown of their output, and of the log, is
// what they print.
func TestAWSVPC(t *testing.T) {
	t.Parallel()
	v := newVPC(t)
	first, second := v.hosts[0], v.hosts[1]
	v.boot()
	first.shell(v.find(awsDocument, "etcdctl put").script)
	for i, h := range v.hosts {
		h.waitShow("flanneld", "ActiveState", "active")
		v.waitRoutes(i, i)
	}
	journal := first.run("journalctl", "--unit=flanneld", "--output=cat")
	for line := range strings.Lines(v.find(awsDocument, "this is the instance").script) {
		if line = v.here(line); !shape(line).MatchString(journal) {
			t.Errorf("the log has no %q:\n%s", line, journal)
		}
	}

	config := v.here(v.find(awsDocument, `{"Network": `).script)
	first.shell("etcdctl put /coreos.com/network/config '" + strings.TrimSpace(config) + "'")
	for _, h := range v.hosts {
		h.run("systemctl", "restart", "flanneld")
		h.addPod("pod")
	}
	v.wantPings()
	if mtu := first.env()["FLANNEL_MTU"]; mtu != "9001" {
		t.Errorf("the MTU is %s", mtu)
	}
	for i := range v.tables {
		v.waitRoutes(i, 0, 1)
	}
	v.wantNoToken(first.pod.Namespace)

	shown := v.show(awsDocument, v.here(v.find(awsDocument, "$ aws ec2 describe-route-tables").script), v.shell)
	for _, route := range v.routes(0) {
		if line := strings.ReplaceAll(route, " ", "\t") + "\tactive\n"; !strings.Contains(shown, line) {
			t.Errorf("there is no %q in\n%s", line, shown)
		}
	}

	remove := v.here(v.find(awsDocument, "aws ec2 delete-route").script)
	second.shell(v.find(awsDocument, "systemctl stop").script)
	v.shell(remove)
	v.waitRoutes(0, 0)
	v.waitRoutes(1, 0, 1)
	first.run("systemctl", "stop", "flanneld")
	check(t, v.tables[0].CreateRoute("10.9.0.0/16", "igw-00000000000000001"))
	v.shell(v.here(v.find(awsDocument, "for dst in").script))
	v.waitRoutes(0)
	if n := len(v.tables[0].Routes()); n != 2 {
		t.Errorf("%d routes are left: %+v", n, v.tables[0].Routes())
	}

	v.testPermissions()
	for _, b := range v.blocks[awsDocument] {
		program, _, _ := strings.Cut(b.script, " ")
		if slices.Contains(programs, program) && !v.ran[[2]string{awsDocument, b.script}] {
			t.Errorf("these commands of %s were not run:\n%s", awsDocument, b.script)
		}
	}
}

// here is a text of the document with what there is in the lab in place of what the
// document speaks of.
func (v *vpc) here(text string) string {
	names := []string{
		"rtb-0123456789abcdef0", v.tables[0].ID, "rtb-0fedcba9876543210", v.tables[1].ID,
		"eni-0123456789abcdef0", v.instances[0].Interface().ID, "eni-0fedcba9876543210", v.instances[1].Interface().ID,
		"i-0123456789abcdef0", v.instances[0].ID,
		"10.5.34.0/24", v.subnet(0), "10.5.12.0/24", v.subnet(1),
	}
	return strings.NewReplacer(names...).Replace(text)
}

// shell runs commands as an operator who may do everything.
func (v *vpc) shell(script string) string {
	v.t.Helper()
	env := append(v.credentials("operator"), "AWS_DEFAULT_REGION="+v.cloud.Region)
	return v.hosts[0].aws(env, "--endpoint-url http://"+fakeaws.EndpointAddr, script)
}

// aws runs commands in the repository, in which aws has one more argument.
func (h *host) aws(env []string, argument, script string) string {
	h.n.t.Helper()
	root, err := filepath.Abs("..")
	check(h.n.t, err)
	env = append([]string{"AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null", "AWS_PAGER="}, env...)
	return h.command(env, "/bin/sh", "-euc", "cd "+root+"\naws() { command aws \"$@\" "+argument+"; }\n"+script)
}

// wantNoToken checks that no token of the metadata service gets as far as a pod, where
// one gets as far as its host.
func (v *vpc) wantNoToken(pod *lab.Namespace) {
	v.t.Helper()
	get := func(ns *lab.Namespace) (string, error) {
		ctx, cancel := context.WithTimeout(v.ctx, 3*time.Second)
		defer cancel()
		out, err := imds.New(imds.Options{HTTPClient: ns.HTTPClient()}).GetMetadata(ctx, &imds.GetMetadataInput{Path: "instance-id"})
		if err != nil {
			return "", err
		}
		defer out.Content.Close()
		text, err := io.ReadAll(out.Content)
		return string(text), err
	}
	if id, err := get(v.hosts[0].Namespace); err != nil || id != v.instances[0].ID {
		v.t.Errorf("the host gets %q, %v", id, err)
	}
	if id, err := get(pod); err == nil {
		v.t.Errorf("a pod gets %q", id)
	}
}

// testPermissions runs what the administrator of an account is to run: as far as the aws command
// can tell by itself, and with moto in the place of IAM if that is installed.
func (v *vpc) testPermissions() {
	v.t.Helper()
	var script string
	for _, beginning := range []string{"aws iam create-role", "aws ec2 associate-iam", "aws ec2 authorize", "aws ec2 modify-instance"} {
		script += v.find(awsDocument, beginning).script
	}
	machine, err := v.lab.AddMachine("admin")
	check(v.t, err)
	admin := &host{Host: machine, n: v.network}
	env := []string{"AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test", "AWS_DEFAULT_REGION=" + v.cloud.Region}
	admin.aws(env, "--generate-cli-skeleton output", script)

	if _, err := exec.LookPath("moto_server"); err != nil {
		v.t.Log("moto_server is not installed")
		return
	}
	server, err := admin.Start("moto", []string{"moto_server", "-H", "127.0.0.1", "-p", "80"}, nil, lab.ProcessOptions{})
	check(v.t, err)
	v.t.Cleanup(server.Kill)
	check(v.t, server.WaitLog(v.ctx, "Running on"))
	shell := func(script string) string {
		v.t.Helper()
		return strings.TrimSpace(admin.aws(env, "--output text --endpoint-url http://127.0.0.1", script))
	}
	ids := strings.Fields(shell("aws ec2 run-instances --image-id ami-12c6146b --query 'Instances[0].[InstanceId, SecurityGroups[0].GroupId]'"))
	if len(ids) != 2 {
		v.t.Fatalf("moto runs %q", ids)
	}
	shell(strings.NewReplacer("i-0123456789abcdef0", ids[0], "sg-0123456789abcdef0", ids[1]).Replace(script))
	for query, want := range map[string]string{
		"iam get-role-policy --role-name flanneld --policy-name flanneld --query 'length(PolicyDocument.Statement[0].Action)'":      "6",
		"iam get-instance-profile --instance-profile-name flanneld --query InstanceProfile.Roles[].RoleName":                        "flanneld",
		"ec2 describe-iam-instance-profile-associations --query IamInstanceProfileAssociations[].InstanceId":                        ids[0],
		"ec2 describe-security-groups --group-ids " + ids[1] + " --query SecurityGroups[].IpPermissions[].IpRanges[].CidrIp": "10.5.0.0/16",
	} {
		if got := shell("aws " + query); got != want {
			v.t.Errorf("aws %s: %q, want %q", query, got, want)
		}
	}
}
