// Package etcd is what the stores in etcd's two APIs have in common: where the
// servers are, how to connect to them, which of them to ask, and what their
// failures mean to the person who set the flags.
package etcd

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"path"
	"strings"
)

// Options say where etcd is and how to talk to it.
type Options struct {
	Endpoints []string
	// Prefix of all keys of the network.
	Prefix string
	// CAFile, CertFile and KeyFile are PEM files. CAFile alone suffices to
	// verify the server.
	CAFile, CertFile, KeyFile string
	Username, Password        string
}

// Server is one of the endpoints.
type Server struct {
	URL                *url.URL // without credentials
	Username, Password string
	TLS                *tls.Config // how to talk to it, where its URL is one of https
}

// Servers returns the endpoints, with the user that each is to be asked as: the
// one of the options, else the one of the URL.
func (o Options) Servers() ([]Server, error) {
	var servers []Server
	for _, text := range o.Endpoints {
		text = strings.TrimSpace(text)
		if text == "" {
			continue
		}
		s, err := o.server(text)
		if err != nil {
			return nil, err
		}
		servers = append(servers, s)
	}
	if len(servers) == 0 {
		return nil, errors.New("-etcd-endpoints names no endpoint")
	}
	return servers, nil
}

func (o Options) server(text string) (Server, error) {
	u, err := url.Parse(text)
	if err != nil {
		// The error and the text are withheld: they may hold a password.
		return Server{}, errors.New("-etcd-endpoints holds something that is not a URL such as http://10.0.0.1:2379")
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" {
		return Server{}, fmt.Errorf("-etcd-endpoints: %q is not a URL such as http://10.0.0.1:2379", u.Redacted())
	}
	s := Server{URL: u, Username: o.Username, Password: o.Password}
	if s.TLS, err = o.tlsConfig(u.Hostname()); err != nil {
		return Server{}, err
	}
	if u.User != nil {
		if s.Username == "" {
			s.Username = u.User.Username()
			s.Password, _ = u.User.Password()
		}
		u.User = nil // it would appear in errors
	}
	return s, nil
}

// Root is the key below which all is.
func (o Options) Root() string { return path.Join("/", o.Prefix) }
