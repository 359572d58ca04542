package ec2

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/smithy-go"
)

// refusal is why a call did not succeed. Its text is the same each time, and never
// has a part of a credential in it.
type refusal struct {
	action, resource string
	code             string // of EC2; empty if there was no answer
	message          string // of EC2
	text             string
	credentials      bool // newer credentials may help
}

func (r *refusal) Error() string {
	return fmt.Sprintf("%s on %s: %s", r.action, r.resource, r.text)
}

// Codes that are about credentials. The messages that come with them may quote what
// was signed.
var credentialCodes = map[string]string{
	"AuthFailure":                 "EC2 does not accept the credentials",
	"ExpiredToken":                "the credentials have expired",
	"IncompleteSignature":         "EC2 does not accept the credentials",
	"InvalidClientTokenId":        "EC2 does not know the access key",
	"MissingAuthenticationToken":  "EC2 does not accept the credentials",
	"OptInRequired":               "the account may not use EC2",
	"RequestExpired":              "the request or the credentials have expired; is this host's clock right?",
	"SignatureDoesNotMatch":       "the secret key is not that of the access key",
	"UnrecognizedClientException": "EC2 does not know the access key",
}

// denied is the code of calls that need a permission.
const denied = "UnauthorizedOperation"

// isThrottled reports whether a call was one too many.
func isThrottled(err error) bool {
	_, is := retry.DefaultThrottleErrorCodes[codeOf(err)]
	return is
}

// explain says in this program's words why a call failed.
func explain(err error, action, resource string) *refusal {
	r := &refusal{action: action, resource: resource}
	var api smithy.APIError
	if !errors.As(err, &api) {
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			r.text = fmt.Sprintf("no answer within %s", callTime)
		case strings.Contains(err.Error(), "failed to refresh cached credentials"):
			r.text = "there are no credentials: none in the environment or the shared files, and the instance has no role that can be read"
		case errors.As(err, new(*smithy.CanceledError)):
			r.text = "canceled"
		default:
			r.text = steady(err)
		}
		return r
	}
	r.code, r.message = api.ErrorCode(), api.ErrorMessage()
	why, credentials := credentialCodes[r.code]
	r.credentials = credentials
	switch {
	case credentials:
	case r.code == denied:
		why = "the credentials lack the permission ec2:" + action
	case isThrottled(r):
		why = "the account makes too many calls"
	default:
		why = strings.TrimSuffix(r.message, ".")
	}
	r.text = r.code + ": " + why
	return r
}

// steady is what is the same each time of an error's text.
func steady(err error) string {
	dns, cert := (*net.DNSError)(nil), x509.CertificateInvalidError{}
	switch {
	case errors.As(err, &dns) && !dns.IsNotFound:
		return fmt.Sprintf("looking up %s: the name server does not answer", dns.Name)
	case errors.As(err, &cert) && cert.Reason == x509.Expired:
		return "x509: the certificate has expired or is not yet valid; is this host's clock right?"
	}
	return innermost(err).Error()
}

// innermost is the cause of an error without what was wrapped around it, such as
// the number of a request.
func innermost(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}
