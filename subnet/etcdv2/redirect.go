package etcdv2

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"flanneld/subnet/etcd"
)

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

// stayTransport keeps requests, and the credentials on them, at the server that they
// were sent to: of redirects it passes on those within that server alone. An answer that
// is the server's failure becomes an error.
type stayTransport struct{ *http.Transport }

func (t stayTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.Transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	switch resp.StatusCode / 100 {
	case 3:
	case 5:
		defer resp.Body.Close()
		return nil, newServerError(resp)
	default:
		return resp, nil
	}
	location := resp.Header.Get("Location")
	to, err := req.URL.Parse(location)
	switch {
	case location == "": // an error of the library's
		return resp, nil
	case err != nil:
		err = &redirectError{"an invalid URL"}
	case origin(to) != origin(req.URL):
		err = &redirectError{to.Scheme + "://" + to.Host} // the rest may hold secrets
	default:
		resp.Header.Set("Location", to.String()) // which the library takes for absolute
		return resp, nil
	}
	_ = resp.Body.Close()
	return nil, err
}

// origin is the scheme, host and port of a URL.
func origin(u *url.URL) string {
	port := u.Port()
	switch {
	case port != "":
	case u.Scheme == "https":
		port = "443"
	case u.Scheme == "http":
		port = "80"
	}
	return strings.ToLower(u.Scheme + "://" + u.Hostname() + ":" + port)
}
