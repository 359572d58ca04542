package ec2

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/smithy-go/logging"
	"k8s.io/klog/v2"
)

const (
	// callTime is how long a call may take, with all its attempts.
	callTime    = 10 * time.Second
	mostBackoff = 4 * time.Second // before the second attempt, and the third and last
)

// session is the clients of one instance.
type session struct {
	ec2    operations
	config aws.Config
	main   map[string]string // ID of the VPC's main table, by the subnets whose packets go by that
}

// operations are those of EC2 that are used here. A session that had the client itself
// would have the linker keep all of the client's operations, half of the program: what
// is reached through an interface may have any of its methods called.
type operations struct {
	CreateRoute                       operation[ec2.CreateRouteInput, ec2.CreateRouteOutput]
	DeleteRoute                       operation[ec2.DeleteRouteInput, ec2.DeleteRouteOutput]
	DescribeNetworkInterfaceAttribute operation[ec2.DescribeNetworkInterfaceAttributeInput, ec2.DescribeNetworkInterfaceAttributeOutput]
	DescribeRouteTables               operation[ec2.DescribeRouteTablesInput, ec2.DescribeRouteTablesOutput]
	ModifyNetworkInterfaceAttribute   operation[ec2.ModifyNetworkInterfaceAttributeInput, ec2.ModifyNetworkInterfaceAttributeOutput]
	ReplaceRoute                      operation[ec2.ReplaceRouteInput, ec2.ReplaceRouteOutput]
}

type operation[In, Out any] func(context.Context, *In, ...func(*ec2.Options)) (*Out, error)

func newOperations(cfg aws.Config) operations {
	c := ec2.NewFromConfig(cfg)
	return operations{
		CreateRoute:                       c.CreateRoute,
		DeleteRoute:                       c.DeleteRoute,
		DescribeNetworkInterfaceAttribute: c.DescribeNetworkInterfaceAttribute,
		DescribeRouteTables:               c.DescribeRouteTables,
		ModifyNetworkInterfaceAttribute:   c.ModifyNetworkInterfaceAttribute,
		ReplaceRoute:                      c.ReplaceRoute,
	}
}

// connect finds out which instance this is, and how to call EC2.
func connect(ctx context.Context, options []func(*config.LoadOptions) error) (*session, *identity, error) {
	options = append([]func(*config.LoadOptions) error{
		config.WithRetryer(newRetryer),
		config.WithLogger(logging.LoggerFunc(func(_ logging.Classification, format string, v ...any) {
			klog.V(1).Infof("calling AWS: "+format, v...)
		})),
	}, options...)
	if c, ok := oldEnvironment(os.Getenv); ok {
		options = append(options, config.WithCredentialsProvider(credentials.NewStaticCredentialsProvider(c.AccessKeyID, c.SecretAccessKey, c.SessionToken)))
	}
	var metadata *imds.Client
	load := func() (aws.Config, error) {
		cfg, err := config.LoadDefaultConfig(ctx, options...)
		if err != nil {
			err = fmt.Errorf("reading how to call EC2 from the environment and files: %w", err)
		}
		return cfg, err
	}
	cfg, err := load()
	if err != nil {
		return nil, nil, err
	}
	if metadata, err = newMetadata(ctx, cfg); err != nil {
		return nil, nil, err
	}
	// The credentials of the role come by the same client, and so by the same
	// version of the service.
	options = append(options, config.WithEC2RoleCredentialOptions(func(o *ec2rolecreds.Options) { o.Client = metadata }))
	if cfg, err = load(); err != nil {
		return nil, nil, err
	}
	self, err := identify(ctx, metadata)
	if err != nil {
		return nil, nil, err
	}
	cfg.Region = self.region
	return &session{ec2: newOperations(cfg), config: cfg, main: make(map[string]string)}, self, nil
}

// newRetryer returns the SDK's retryer: a budget ends retries where most of them are in vain.
// What EC2 refuses as one call too many is not for it: that is tried again at a time of this
// host's own.
func newRetryer() aws.Retryer {
	return retry.NewStandard(func(o *retry.StandardOptions) {
		o.MaxBackoff = mostBackoff
		o.Retryables = append([]retry.IsErrorRetryable{retry.IsErrorRetryableFunc(func(err error) aws.Ternary {
			if isThrottled(explain(err, "", "")) {
				return aws.FalseTernary
			}
			return aws.UnknownTernary
		})}, o.Retryables...)
	})
}

// oldEnvironment is the credentials with a token as flannel took them: the SDK does
// not know the token's old name.
func oldEnvironment(getenv func(string) string) (c aws.Credentials, ok bool) {
	first := func(names ...string) string {
		for _, name := range names {
			if value := getenv(name); value != "" {
				return value
			}
		}
		return ""
	}
	c.AccessKeyID = first("AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY")
	c.SecretAccessKey = first("AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY")
	c.SessionToken = getenv("AWS_SECURITY_TOKEN")
	return c, c.AccessKeyID != "" && c.SecretAccessKey != "" && c.SessionToken != "" && getenv("AWS_SESSION_TOKEN") == ""
}

// do makes one call. action is its name, and resource what it is about.
func (s *session) do(ctx context.Context, action, resource string, call func(context.Context) error) error {
	ctx, stop := context.WithTimeout(ctx, callTime)
	defer stop()
	err := call(ctx)
	if err == nil {
		return nil
	}
	r := explain(err, action, resource)
	if r.credentials {
		if c, ok := s.config.Credentials.(*aws.CredentialsCache); ok {
			c.Invalidate() // there may be newer ones
		}
	}
	return r
}

// codeOf is what EC2 calls the reason of an error; empty if it did not answer.
func codeOf(err error) string {
	if r := (*refusal)(nil); errors.As(err, &r) {
		return r.code
	}
	return ""
}

// unanswered reports whether a call had no answer of EC2.
func unanswered(err error) bool { return errors.As(err, new(*refusal)) && codeOf(err) == "" }
