package fakeaws

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

const (
	signatureAlgorithm = "AWS4-HMAC-SHA256"
	signatureService   = "ec2"
	signatureDate      = "20060102T150405Z"
	// maxSkew is how far a request's date may be from the endpoint's.
	maxSkew = 15 * time.Minute
)

// signature is what a request's header Authorization says.
type signature struct {
	keyID     string
	scope     string // DATE/REGION/SERVICE/aws4_request
	headers   []string
	signature string
}

// authenticate checks the signature of a request and tells whose it is.
func (c *Cloud) authenticate(r *http.Request, body []byte) (*key, error) {
	header := r.Header.Get("Authorization")
	if header == "" {
		return nil, errorf("MissingParameter", "The request must contain the parameter AWSAccessKeyId")
	}
	s, err := parseSignature(header)
	if err != nil {
		return nil, err
	}
	date := r.Header.Get("X-Amz-Date")
	signed, timeErr := time.Parse(signatureDate, date)
	if timeErr != nil {
		return nil, errorf("IncompleteSignature",
			"Date must be in ISO-8601 'basic format'. Got '%s'. See http://en.wikipedia.org/wiki/ISO_8601", date)
	}
	if want := strings.Join([]string{date[:8], c.Region, signatureService, "aws4_request"}, "/"); s.scope != want {
		return nil, errorf("AuthFailure", "Credential should be scoped to %s, not %s", want, s.scope)
	}
	if missing := unsigned(r.Header, s.headers); missing != "" {
		return nil, errorf("AuthFailure", "There were headers present in the request which were not signed: %s", missing)
	}
	k := c.keys[s.keyID]
	if k == nil || r.Header.Get("X-Amz-Security-Token") != k.SessionToken ||
		!hmac.Equal([]byte(s.signature), []byte(s.compute(r, body, k.SecretAccessKey))) {
		return nil, errorf("AuthFailure", "AWS was not able to validate the provided access credentials")
	}
	now := c.clock()
	if skew := now.Sub(signed); skew > maxSkew || skew < -maxSkew {
		return nil, errorf("RequestExpired", "Request has expired. Timestamp date is %s. Current date is %s",
			signed.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	if !k.Expires.IsZero() && !now.Before(k.Expires) {
		return nil, errorf("RequestExpired", "Request has expired.")
	}
	return k, nil
}

func parseSignature(header string) (signature, error) {
	incomplete := func() (signature, error) {
		return signature{}, errorf("IncompleteSignature",
			"Authorization header requires %s with Credential, SignedHeaders and Signature. Authorization=%s",
			signatureAlgorithm, header)
	}
	rest, ok := strings.CutPrefix(header, signatureAlgorithm+" ")
	if !ok {
		return incomplete()
	}
	parts := map[string]string{}
	for part := range strings.SplitSeq(rest, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		parts[name] = value
	}
	id, scope, _ := strings.Cut(parts["Credential"], "/")
	s := signature{keyID: id, scope: scope, headers: strings.Split(parts["SignedHeaders"], ";"), signature: parts["Signature"]}
	if id == "" || scope == "" || s.signature == "" || !slices.IsSorted(s.headers) {
		return incomplete()
	}
	return s, nil
}

// unsigned is a header that should have been signed and was not, or empty.
func unsigned(h http.Header, signed []string) string {
	if !slices.Contains(signed, "host") {
		return "host"
	}
	for name := range h {
		if name = strings.ToLower(name); strings.HasPrefix(name, "x-amz-") && !slices.Contains(signed, name) {
			return name
		}
	}
	return ""
}

// compute makes the signature that the request should have.
func (s signature) compute(r *http.Request, body []byte, secret string) string {
	path := r.URL.EscapedPath()
	if path == "" {
		path = "/"
	}
	payload := sha256.Sum256(body)
	lines := []string{r.Method, path, canonicalQuery(r.URL.Query())}
	for _, name := range s.headers {
		lines = append(lines, name+":"+headerValue(r, name))
	}
	lines = append(lines, "", strings.Join(s.headers, ";"), hex.EncodeToString(payload[:]))
	request := sha256.Sum256([]byte(strings.Join(lines, "\n")))
	text := strings.Join([]string{
		signatureAlgorithm, r.Header.Get("X-Amz-Date"), s.scope, hex.EncodeToString(request[:]),
	}, "\n")
	sum := []byte("AWS4" + secret)
	for part := range strings.SplitSeq(s.scope, "/") {
		sum = mac(sum, part)
	}
	return hex.EncodeToString(mac(sum, text))
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

func canonicalQuery(query url.Values) string {
	var pairs []string
	for name, values := range query {
		for _, v := range values {
			pairs = append(pairs, escape(name)+"="+escape(v))
		}
	}
	slices.Sort(pairs)
	return strings.Join(pairs, "&")
}

// escape leaves the unreserved characters alone, as url.QueryEscape does, but
// has no plus sign for a space.
func escape(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }

// headerValue is a header as it was signed. What Go keeps outside of the
// header is taken from where it is.
func headerValue(r *http.Request, name string) string {
	values := r.Header.Values(name)
	switch {
	case name == "host":
		values = []string{r.Host}
	case name == "content-length" && len(values) == 0:
		values = []string{formatInt(r.ContentLength)}
	}
	trimmed := make([]string, len(values))
	for i, v := range values {
		trimmed[i] = strings.Join(strings.Fields(v), " ")
	}
	return strings.Join(trimmed, ",")
}
