package fakeaws_test

import (
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"testing"

	"flanneld/pkg/lab"
	"flanneld/pkg/lab/fakeaws"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// cloudCLI is a cloud as the script below needs it: with an instance a in a
// subnet and another one, b, and who may use it how.
type cloudCLI struct {
	host     *lab.Host // where the aws command runs
	endpoint string
	env      []string
	key      string            // an access key that is known
	names    map[string]string // of {a}, {nica}, {b}, {nicb}, {subnet}, {vpc} and {table}
}

// step is an aws command and what it prints: of an error the code and the
// message.
type step struct {
	args, want string
	ownOnly    bool // moto does not do it, or not right
	badSecret  bool
}

var script = []step{
	{
		args: "describe-instances --filters Name=instance-id,Values={a} --query " +
			"Reservations[].Instances[].[InstanceId,State.Name,SubnetId,VpcId,SourceDestCheck,NetworkInterfaces[0].NetworkInterfaceId]",
		want: "{a} running {subnet} {vpc} True {nica}",
	},
	{
		args: "describe-route-tables --filters Name=association.main,Values=true Name=vpc-id,Values={vpc} --query RouteTables[].RouteTableId",
		want: "{table}",
	},
	{args: "create-route --route-table-id {table} --destination-cidr-block 10.1.5.0/24 --instance-id {a}", want: "True"},
	{
		args: "create-route --route-table-id {table} --destination-cidr-block 10.1.5.0/24 --instance-id {b}",
		want: "RouteAlreadyExists: The route identified by 10.1.5.0/24 already exists",
	},
	{args: "replace-route --route-table-id {table} --destination-cidr-block 10.1.5.0/24 --network-interface-id {nicb}"},
	{
		args: "describe-route-tables --route-table-ids {table} --query " +
			"RouteTables[].Routes[].[DestinationCidrBlock,GatewayId,NetworkInterfaceId,State,Origin]",
		want: "10.0.0.0/16 local None active CreateRouteTable 10.1.5.0/24 None {nicb} active CreateRoute",
	},
	{
		args: "replace-route --route-table-id {table} --destination-cidr-block 10.1.6.0/24 --network-interface-id {nicb}",
		want: "InvalidParameterValue: There is no route defined for '10.1.6.0/24' in the route table. Use CreateRoute instead",
	},
	{args: "delete-route --route-table-id {table} --destination-cidr-block 10.1.5.0/24"},
	{
		args: "delete-route --route-table-id {table} --destination-cidr-block 10.1.5.0/24",
		want: "InvalidRoute.NotFound: no route with destination-cidr-block 10.1.5.0/24 in route table {table}",
	},
	{
		args: "create-route --route-table-id rtb-01234567 --destination-cidr-block 10.1.5.0/24 --instance-id {a}",
		want: "InvalidRouteTableID.NotFound: The routeTable ID 'rtb-01234567' does not exist",
	},
	{
		args: "create-route --route-table-id {table} --destination-cidr-block 10.1.5/24 --instance-id {a}",
		want: "InvalidParameterValue: Value (10.1.5/24) for parameter destinationCidrBlock is invalid. This is not a valid CIDR block",
	},
	{args: "modify-network-interface-attribute --network-interface-id {nica} --no-source-dest-check"},
	{
		args: "describe-network-interfaces --filters Name=attachment.instance-id,Values={a} --query NetworkInterfaces[].[NetworkInterfaceId,SourceDestCheck]",
		want: "{nica} False",
	},
	{
		args: "describe-route-tables --query RouteTables[0].VpcId", ownOnly: true, badSecret: true,
		want: "AuthFailure: AWS was not able to validate the provided access credentials",
	},
}

// A client that others wrote is content with what it is told, and is told the same
// by a cloud that others wrote.
func TestAWSCommand(t *testing.T) {
	t.Run("own", func(t *testing.T) {
		t.Parallel()
		runScript(t, ownCloud(t), func(step) bool { return true })
	})
	t.Run("moto", func(t *testing.T) {
		t.Parallel()
		if _, err := exec.LookPath("moto_server"); err != nil {
			t.Skip("moto_server is not installed, so there is nothing to compare with")
		}
		runScript(t, motoCloud(t), func(s step) bool { return !s.ownOnly })
	})
}

func runScript(t *testing.T, c cloudCLI, wanted func(step) bool) {
	var there, back []string
	for name, id := range c.names {
		there, back = append(there, name, id), append(back, id, name)
	}
	fill, blank := strings.NewReplacer(there...), strings.NewReplacer(back...)
	for i, s := range script {
		if !wanted(s) {
			continue
		}
		env := c.env
		if s.badSecret {
			env = append(env, "AWS_ACCESS_KEY_ID="+c.key, "AWS_SECRET_ACCESS_KEY=wrong")
		}
		got := blank.Replace(c.run(t, i, strings.Fields(fill.Replace(s.args)), env))
		if got != s.want {
			t.Errorf("aws ec2 %s:\n%s\nwant:\n%s", s.args, got, s.want)
		}
	}
}

// run runs an aws command and returns what it prints, with single spaces.
func (c cloudCLI) run(t *testing.T, i int, args, env []string) string {
	t.Helper()
	argv := append([]string{awsCommand(t), "--endpoint-url", c.endpoint, "--output", "text", "ec2"}, args...)
	env = append([]string{
		"HOME=" + c.host.Dir, "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null", "AWS_PAGER=",
	}, env...)
	p := must(c.host.Start(fmt.Sprintf("aws-%d", i), argv, env, lab.ProcessOptions{}))(t)
	code := must(p.Wait(t.Context()))(t)
	text := strings.Join(strings.Fields(p.Log()), " ")
	if code == 0 {
		return text
	}
	_, failure, _ := strings.Cut(text, "An error occurred (")
	errorCode, message, _ := strings.Cut(failure, ") when calling the ")
	_, message, ok := strings.Cut(message, " operation: ")
	if !ok {
		t.Fatalf("aws %q ended with code %d:\n%s", args, code, text)
	}
	return errorCode + ": " + strings.TrimSuffix(message, ".")
}

// awsCommand is Debian's aws, or whichever is there.
func awsCommand(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"/usr/bin/aws", "aws"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Fatal("the aws command is not installed: run make tools")
	return ""
}

// ownCloud is a lab in which the command runs on instance a, with the
// credentials of its role.
func ownCloud(t *testing.T) cloudCLI {
	t.Helper()
	v := newVPCLab(t)
	v.a.SetMetadata(fakeaws.MetadataOptions{TokensRequired: true})
	t.Cleanup(func() {
		if calls := v.Calls("CreateRoute"); len(calls) != 4 || !strings.HasPrefix(calls[0].AccessKeyID, "ASIA") {
			t.Errorf("calls %+v", calls)
		}
	})
	return cloudCLI{host: v.hostA, endpoint: "http://" + fakeaws.EndpointAddr, env: v.router.Env(), key: v.user.AccessKeyID, names: map[string]string{
		"{a}": v.a.ID, "{nica}": v.a.Interface().ID, "{b}": v.b.ID, "{nicb}": v.b.Interface().ID,
		"{subnet}": v.first.ID, "{vpc}": v.vpc.ID, "{table}": v.vpc.Main.ID,
	}}
}

// motoCloud is moto in a namespace of its own.
func motoCloud(t *testing.T) cloudCLI {
	t.Helper()
	l := must(lab.New(lab.Options{}))(t)
	t.Cleanup(func() { check(t, l.Close()) })
	host := must(l.AddMachine("moto"))(t)
	server := must(host.Start("moto_server", []string{"moto_server", "-H", "127.0.0.1", "-p", "80"}, nil, lab.ProcessOptions{}))(t)
	check(t, server.WaitLog(t.Context(), "Running on"))

	const key, region = "test", "eu-central-1"
	transport := &http.Transport{DialContext: host.DialContext, DisableKeepAlives: true}
	c := ec2.New(ec2.Options{
		Region: region, BaseEndpoint: aws.String("http://127.0.0.1"), HTTPClient: &http.Client{Transport: transport},
		Credentials: credentials.NewStaticCredentialsProvider(key, key, ""),
	})
	ctx := t.Context()
	vpc := must(c.CreateVpc(ctx, &ec2.CreateVpcInput{CidrBlock: aws.String("10.0.0.0/16")}))(t).Vpc
	subnet := must(c.CreateSubnet(ctx, &ec2.CreateSubnetInput{VpcId: vpc.VpcId, CidrBlock: aws.String("10.0.1.0/24")}))(t).Subnet
	tables := must(c.DescribeRouteTables(ctx, &ec2.DescribeRouteTablesInput{
		Filters: []types.Filter{filter("vpc-id", *vpc.VpcId)},
	}))(t).RouteTables
	run := must(c.RunInstances(ctx, &ec2.RunInstancesInput{
		ImageId: aws.String("ami-12c6146b"), MinCount: aws.Int32(2), MaxCount: aws.Int32(2), SubnetId: subnet.SubnetId,
		InstanceType: types.InstanceTypeM5Large,
	}))(t)
	a, b := run.Instances[0], run.Instances[1]
	return cloudCLI{
		host:     host,
		endpoint: "http://127.0.0.1",
		env:      []string{"AWS_ACCESS_KEY_ID=" + key, "AWS_SECRET_ACCESS_KEY=" + key, "AWS_REGION=" + region},
		names: map[string]string{
			"{a}": *a.InstanceId, "{nica}": *a.NetworkInterfaces[0].NetworkInterfaceId,
			"{b}": *b.InstanceId, "{nicb}": *b.NetworkInterfaces[0].NetworkInterfaceId,
			"{subnet}": *subnet.SubnetId, "{vpc}": *vpc.VpcId, "{table}": *tables[0].RouteTableId,
		},
	}
}
