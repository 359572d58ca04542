package etcd

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
)

// clientPort is where etcd listens for clients if it is not told otherwise.
const clientPort = "2379"

// ParseEndpoints returns the endpoints of a list with commas between them.
func ParseEndpoints(list string) ([]string, error) {
	var endpoints []string
	for _, text := range strings.Split(list, ",") {
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		if _, _, err := parseEndpoint(text); err != nil {
			if strings.Contains(list, "@") { // a password may be anywhere
				err = errors.New("it holds something that is" + notAnEndpoint)
			}
			return nil, err
		}
		endpoints = append(endpoints, text)
	}
	return endpoints, nil
}

const notAnEndpoint = " not the URL of an etcd server such as http://127.0.0.1:2379, nor its address"

// parseEndpoint reads an endpoint in any of the forms that etcd's own clients take. Without
// a scheme, its URL has none. That of a socket names no host.
func parseEndpoint(text string) (u *url.URL, socket string, err error) {
	bad := fmt.Errorf("-etcd-endpoints: %q is%s", text, notAnEndpoint)
	if strings.Contains(text, "@") {
		bad = errors.New("-etcd-endpoints holds something that is" + notAnEndpoint)
	}
	for scheme, of := range map[string]string{"unix:": "http", "unixs:": "https"} {
		if socket, ok := strings.CutPrefix(text, scheme); ok {
			socket = strings.TrimPrefix(socket, "//")
			if socket == "" {
				return nil, "", bad
			}
			return &url.URL{Scheme: of, Host: "localhost"}, socket, nil
		}
	}
	if !strings.Contains(text, "://") {
		u, ok := parseAddress(strings.TrimSuffix(text, "/"))
		if !ok {
			return nil, "", bad
		}
		return u, "", nil
	}
	u, err = url.Parse(text)
	if err == nil {
		bad = fmt.Errorf("-etcd-endpoints: %q is%s", u.Redacted(), notAnEndpoint)
	}
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || strings.Contains(u.Host, ";") {
		return nil, "", bad
	}
	return u, "", nil
}

// parseAddress reads a host with or without a port. There is no default port of a scheme
// then, but etcd's.
func parseAddress(text string) (*url.URL, bool) {
	host, port := text, clientPort
	if h, p, err := net.SplitHostPort(text); err == nil && p != "" {
		host, port = h, p
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		if host, ok = strings.CutSuffix(inner, "]"); !ok {
			return nil, false
		}
	}
	if a, err := netip.ParseAddr(host); err == nil {
		host = a.String()
	} else if u, err := url.Parse("//" + host); err != nil || u.Host != host || strings.Contains(host, ":") {
		return nil, false
	}
	u := &url.URL{Host: net.JoinHostPort(host, port)}
	if parsed, err := url.Parse(u.String()); err != nil || parsed.Host != u.Host || host == "" {
		return nil, false
	}
	return u, true
}
