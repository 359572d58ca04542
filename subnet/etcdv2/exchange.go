package etcdv2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"

	"flanneld/subnet/etcd"
)

// request is one request to an endpoint.
type request struct {
	method string
	key    string // absolute
	query  url.Values
	form   url.Values // of a PUT
	// accepted, if not nil, is called when the answer begins.
	accepted func()
}

// answer is what an endpoint answers, whole.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// redirectsMost is how many redirects are followed.
const redirectsMost = 10

// keysAPI is the path of the API for keys.
const keysAPI = "/v2/keys"

// exchange sends a request to a path below that of the endpoint. A redirect to another
// server is not followed: the request would take the password along. An answer that is the
// server's failure becomes an error.
func (e endpoint) exchange(ctx context.Context, path string, r request) (answer, error) {
	to := *e.URL
	to.Path, to.RawPath, to.RawQuery = strings.TrimSuffix(to.Path, "/")+path, "", r.query.Encode()
	for range redirectsMost + 1 {
		a, err := e.send(ctx, &to, r)
		switch {
		case ctx.Err() != nil:
			return answer{}, ctx.Err()
		case err != nil || a.status/100 != 3:
			return a, err
		}
		if err := redirect(&to, a.header.Get("Location")); err != nil {
			return answer{}, err
		}
	}
	return answer{}, errors.New("too many redirects")
}

// send sends a request once.
func (e endpoint) send(ctx context.Context, to *url.URL, r request) (answer, error) {
	if r.accepted != nil {
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotFirstResponseByte: r.accepted})
	}
	req, err := http.NewRequestWithContext(ctx, r.method, to.String(), strings.NewReader(r.form.Encode()))
	if err != nil {
		return answer{}, err
	}
	if r.form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if e.Username != "" {
		req.SetBasicAuth(e.Username, e.Password)
	}
	resp, err := e.transport.RoundTrip(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if resp.StatusCode/100 == 5 {
		err = &serverError{resp.StatusCode, body} // what there is of it
	}
	return answer{resp.StatusCode, resp.Header, body}, err
}

// redirectError is that a server redirects a request to somewhere else.
type redirectError struct{ to string }

func (e *redirectError) Error() string {
	return fmt.Sprintf("the server redirects to %.200q", e.to)
}

func (e *redirectError) diagnose() etcd.Diagnosis {
	return etcd.Diagnosis{
		Seen:   e.Error() + ", which is not followed, as a request may bear the password",
		Advice: "if that is etcd, name it in -etcd-endpoints",
	}
}

// redirect makes a URL the one that a server redirects to, if that is of the same server.
func redirect(u *url.URL, location string) error {
	to, err := u.Parse(location)
	switch {
	case location == "":
		return errors.New("location header not set")
	case err != nil:
		return &redirectError{"an invalid URL"}
	case origin(to) != origin(u):
		return &redirectError{to.Scheme + "://" + to.Host} // the rest may hold secrets
	}
	*u = *to
	return nil
}

// origin is the scheme, host and port of a URL.
func origin(u *url.URL) string { return strings.ToLower(u.Scheme + "://" + etcd.Address(u)) }
