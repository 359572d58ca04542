package ec2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// identity is what an instance knows of itself.
type identity struct {
	instance, region string
	interfaces       map[netip.Addr]nic // by address
	vpc              string
	hasIPv6          bool // the VPC has a range of IPv6 addresses
}

// nic is a network interface of the instance.
type nic struct {
	id, subnet, vpc string
}

// lacks is why nothing can be led to an address of this host: no network interface has it, for all
// that EC2 knows. It is nil if one does.
func (i *identity) lacks(a netip.Addr) error {
	if _, ok := i.interfaces[a]; ok || !a.IsValid() {
		return nil
	}
	what := ""
	if a.Is6() {
		what = ": have EC2 assign it one, or name an interface that has one by -iface-ipv6"
		if !i.hasIPv6 {
			what = fmt.Sprintf(", and the VPC %s has no IPv6 address range: associate one with it and with the hosts' subnets, and assign addresses, or set EnableIPv6 to false", i.vpc)
		}
	}
	return fmt.Errorf("none of the network interfaces of %s has the address %s%s", i.instance, a, what)
}

// metadataTime is how long the metadata service may take for one answer.
const metadataTime = 5 * time.Second

// noVersion2 is in the error where the service has no tokens. The SDK hides what it
// wraps.
var noVersion2 = regexp.MustCompile(`getToken, .*StatusCode: (403|404|405)\b`)

// noAnswer is in the error where none came in time: the SDK waits for less than the
// context lets it.
var noAnswer = regexp.MustCompile(`(?i)timeout|deadline exceeded`)

// newMetadata returns a client for the instance's metadata. It is one for version 1
// only if there is no version 2: that an answer does not come is no sign of that.
func newMetadata(ctx context.Context, cfg aws.Config) (*imds.Client, error) {
	version := func(fallback aws.Ternary) *imds.Client {
		return imds.NewFromConfig(cfg, func(o *imds.Options) { o.EnableFallback = fallback })
	}
	v2 := version(aws.FalseTernary)
	_, err := get(ctx, v2, "instance-id")
	if err == nil {
		return v2, nil
	}
	if noVersion2.MatchString(err.Error()) {
		v1 := version(aws.TrueTernary)
		if _, err := get(ctx, v1, "instance-id"); err == nil {
			return v1, nil
		}
	}
	return nil, err
}

// get reads one item of the metadata.
func get(ctx context.Context, c *imds.Client, path string) (string, error) {
	ctx, stop := context.WithTimeout(ctx, metadataTime) // the SDK has a limit only where the context has none
	defer stop()
	out, err := c.GetMetadata(ctx, &imds.GetMetadataInput{Path: path})
	if err == nil {
		defer out.Content.Close()
		var text []byte
		if text, err = io.ReadAll(out.Content); err == nil {
			return strings.TrimSpace(string(text)), nil
		}
	}
	if noAnswer.MatchString(err.Error()) {
		return "", fmt.Errorf("the instance metadata service (IMDS) does not answer; is this an instance of EC2, and is a firewall or a proxy between?: %w", context.DeadlineExceeded)
	}
	return "", metadataError{path, err}
}

// metadataError leaves out what differs from one time to the next.
type metadataError struct {
	path string
	err  error
}

func (e metadataError) Error() string {
	return fmt.Sprintf("reading %s from the instance metadata service (IMDS): %s", e.path, innermost(e.err))
}

func (e metadataError) Unwrap() error { return e.err }

// isAbsent reports whether the metadata has no such item.
func isAbsent(err error) bool {
	r := (*smithyhttp.ResponseError)(nil)
	return errors.As(err, &r) && r.HTTPStatusCode() == http.StatusNotFound
}

// identify reads what the instance knows of itself.
func identify(ctx context.Context, c *imds.Client) (*identity, error) {
	self := &identity{interfaces: make(map[netip.Addr]nic)}
	var err error
	read := func(path string) (text string) {
		if err == nil {
			text, err = get(ctx, c, path)
		}
		return text
	}
	self.instance, self.region = read("instance-id"), read("placement/region")
	const macs = "network/interfaces/macs/"
	for mac := range strings.FieldsSeq(read(macs)) {
		at := macs + strings.TrimSuffix(mac, "/") + "/"
		n := nic{id: read(at + "interface-id"), subnet: read(at + "subnet-id"), vpc: read(at + "vpc-id")}
		there := err == nil
		list := func(name string) []string {
			texts := strings.Fields(read(at + name))
			if there && isAbsent(err) { // it is empty
				err = nil
			}
			return texts
		}
		for _, text := range slices.Concat(list("local-ipv4s"), list("ipv6s")) {
			if a, err := netip.ParseAddr(text); err == nil {
				self.interfaces[a] = n
			}
		}
		self.vpc, self.hasIPv6 = n.vpc, self.hasIPv6 || len(list("vpc-ipv6-cidr-blocks")) > 0
		if isAbsent(err) { // it was taken away meanwhile
			err = nil
		}
	}
	if err != nil {
		return nil, err
	}
	return self, nil
}
