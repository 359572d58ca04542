package fakeaws_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"testing"

	"flanneld/pkg/lab"
	"flanneld/pkg/lab/fakeaws"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if err := lab.Enter(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fixture is a cloud with a VPC of two subnets. The second has a table of its
// own. In each is an instance; a is in the first.
type fixture struct {
	*fakeaws.Cloud
	vpc    *fakeaws.VPC
	first  *fakeaws.Subnet
	second *fakeaws.Subnet
	table  *fakeaws.RouteTable // of second
	a, b   *fakeaws.Instance
	user   fakeaws.Credentials
}

func newFixture(t *testing.T, opts fakeaws.Options) *fixture {
	t.Helper()
	w := &fixture{Cloud: fakeaws.New(opts)}
	w.vpc = must(w.AddVPC("10.0.0.0/16"))(t)
	w.first = must(w.vpc.AddSubnet("10.0.1.0/24", "a"))(t)
	w.second = must(w.vpc.AddSubnet("10.0.2.0/24", "a"))(t)
	w.table = w.vpc.AddRouteTable()
	check(t, w.table.Associate(w.second))
	w.a = must(w.RunInstance(w.first, fakeaws.InstanceOptions{Role: "node"}))(t)
	w.b = must(w.RunInstance(w.second, fakeaws.InstanceOptions{}))(t)
	w.user = w.AddUser("admin")
	return w
}

// client is one of the fixture's users that does not try twice.
func (w *fixture) client(change ...func(*ec2.Options)) *ec2.Client {
	return ec2.New(ec2.Options{
		Region:       w.Region,
		BaseEndpoint: aws.String("http://ec2.test"),
		Credentials: credentials.NewStaticCredentialsProvider(
			w.user.AccessKeyID, w.user.SecretAccessKey, w.user.SessionToken),
		HTTPClient: &http.Client{Transport: w.Transport(nil)},
		Retryer:    aws.NopRetryer{},
	}, change...)
}

func createRoute(ctx context.Context, c *ec2.Client, t *fakeaws.RouteTable, dst, nic string) error {
	_, err := c.CreateRoute(ctx, &ec2.CreateRouteInput{
		RouteTableId: &t.ID, DestinationCidrBlock: &dst, NetworkInterfaceId: &nic,
	})
	return err
}

func replaceRoute(ctx context.Context, c *ec2.Client, t *fakeaws.RouteTable, dst, nic string) error {
	_, err := c.ReplaceRoute(ctx, &ec2.ReplaceRouteInput{
		RouteTableId: &t.ID, DestinationCidrBlock: &dst, NetworkInterfaceId: &nic,
	})
	return err
}

func deleteRoute(ctx context.Context, c *ec2.Client, t *fakeaws.RouteTable, dst string) error {
	_, err := c.DeleteRoute(ctx, &ec2.DeleteRouteInput{RouteTableId: &t.ID, DestinationCidrBlock: &dst})
	return err
}

// describeRoutes lists the routes of a table as lines of text.
func describeRoutes(t *testing.T, c *ec2.Client, table *fakeaws.RouteTable) []string {
	t.Helper()
	out, err := c.DescribeRouteTables(t.Context(), &ec2.DescribeRouteTablesInput{RouteTableIds: []string{table.ID}})
	check(t, err)
	var lines []string
	for _, r := range out.RouteTables[0].Routes {
		target := aws.ToString(r.GatewayId) + aws.ToString(r.NetworkInterfaceId)
		lines = append(lines, fmt.Sprintf("%s %s %s %s", aws.ToString(r.DestinationCidrBlock), target, r.State, r.Origin))
	}
	return lines
}

func wantRoutes(t *testing.T, c *ec2.Client, table *fakeaws.RouteTable, want ...string) {
	t.Helper()
	want = append([]string{"10.0.0.0/16 local active CreateRouteTable"}, want...)
	if got := describeRoutes(t, c, table); !slices.Equal(got, want) {
		t.Fatalf("routes:\n%q\nwant:\n%q", got, want)
	}
}

// wantError checks the code of what EC2 answered and, if it is not empty, its
// message.
func wantError(t *testing.T, err error, code, message string) {
	t.Helper()
	var failed smithy.APIError
	if !errors.As(err, &failed) || failed.ErrorCode() != code {
		t.Fatalf("got %v, want %s", err, code)
	}
	if message != "" && failed.ErrorMessage() != message {
		t.Fatalf("got the message %q, want %q", failed.ErrorMessage(), message)
	}
}

// message is what EC2 says beside the code of an error.
func message(t *testing.T, err error) string {
	t.Helper()
	var failed smithy.APIError
	if !errors.As(err, &failed) {
		t.Fatalf("%v is no answer of EC2", err)
	}
	return failed.ErrorMessage()
}

func filter(name string, values ...string) types.Filter {
	return types.Filter{Name: &name, Values: values}
}
