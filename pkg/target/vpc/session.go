package vpc

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
)

const (
	// callTime is how long a call may take, with all its attempts.
	callTime    = 10 * time.Second
	attempts    = 4
	mostBackoff = 4 * time.Second
	// turn is how often a call that is held back asks whether it may go.
	turn = 100 * time.Millisecond
)

// session is the clients of one instance.
type session struct {
	ec2    *ec2.Client
	config aws.Config
}

// connect finds out which instance this is, and how to call EC2.
func connect(ctx context.Context, options []func(*config.LoadOptions) error) (*session, *identity, error) {
	options = append([]func(*config.LoadOptions) error{
		// Client-side rate limiting follows what EC2 lets pass, and a quota ends
		// retries where most of them are in vain.
		config.WithRetryer(func() aws.Retryer {
			return patient{retry.NewAdaptiveMode(func(o *retry.AdaptiveModeOptions) {
				o.FailOnNoAttemptTokens = true
				o.StandardOptions = append(o.StandardOptions, func(o *retry.StandardOptions) {
					o.MaxAttempts, o.MaxBackoff = attempts, mostBackoff
				})
			})}
		}),
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
	return &session{ec2: ec2.NewFromConfig(cfg), config: cfg}, self, nil
}

// patient waits for its turn by itself: the SDK may compute a wait of no time at all,
// again and again.
type patient struct{ *retry.AdaptiveMode }

// GetAttemptToken implements aws.RetryerV2.
func (p patient) GetAttemptToken(ctx context.Context) (func(error) error, error) {
	for {
		release, err := p.AdaptiveMode.GetAttemptToken(ctx)
		if err == nil {
			return release, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for a call's turn: %w", ctx.Err())
		case <-time.After(turn):
		}
	}
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
