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
	// Endpoints are URLs of http, https, unix or unixs, or hosts with or without a port.
	Endpoints []string
	// Prefix of all keys of the network.
	Prefix string
	// CAFile, CertFile and KeyFile are PEM files. CAFile alone suffices to
	// verify the server.
	CAFile, CertFile, KeyFile string
	Username, Password        string
	// Failing is what was logged of endpoints; nil to log nothing.
	Failing *Failing
	// Lag gets how long it takes to answer; nil to note nothing.
	Lag *Lag
}

// Server is one of the endpoints.
type Server struct {
	Name               string   // as messages call it, without credentials
	URL                *url.URL // of http or https, without credentials
	Socket             string   // the path of the server's Unix socket, if it has one; then URL names no host
	Username, Password string
	TLS                *tls.Config // how to talk to it, where its URL is one of https
	// Dial connects to it; nil for a direct connection, or the environment's proxy of HTTP.
	Dial DialFunc
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
	u, socket, err := parseEndpoint(text)
	if err != nil {
		return Server{}, fmt.Errorf("-etcd-endpoints: %w", err)
	}
	if u.Scheme == "" {
		u.Scheme = "http"
		if o.CAFile != "" || o.CertFile != "" {
			u.Scheme = "https"
		}
	}
	s := Server{URL: u, Socket: socket, Username: o.Username, Password: o.Password}
	host := u.Hostname()
	if socket != "" {
		host = path.Base(socket)
	}
	if s.TLS, err = o.tlsConfig(host); err != nil {
		return Server{}, err
	}
	if u.User != nil {
		if s.Username == "" {
			s.Username = u.User.Username()
			s.Password, _ = u.User.Password()
		}
		u.User = nil // it would appear in errors
	}
	if s.Name = text; socket == "" {
		s.Name = u.String()
	}
	return s, nil
}

// Root is the key below which all is in version 2 of the API, which is a tree: slashes at
// either end and double ones make no difference.
func (o Options) Root() string { return path.Join("/", o.Prefix) }

// FlatRoot is the beginning of all keys in version 3, where a key is any text: one without
// a slash in front is another one. It is empty if keys begin with what is below it.
func (o Options) FlatRoot() string {
	if root := path.Clean(o.Prefix); root != "." {
		return root
	}
	return ""
}
