package etcd

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
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
	bad := fmt.Errorf("%q is%s", text, notAnEndpoint)
	if strings.Contains(text, "@") {
		bad = errors.New("it holds something that is" + notAnEndpoint)
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
		var ok bool
		if u, ok = parseAddress(strings.TrimSuffix(text, "/")); !ok {
			return nil, "", bad
		}
	} else if u, err = url.Parse(text); err != nil {
		return nil, "", bad
	} else if u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || strings.Contains(u.Host, ";") {
		return nil, "", fmt.Errorf("%q is%s", u.Redacted(), notAnEndpoint)
	}
	if strings.HasPrefix(u.Host, "[") { // only an address of IPv6 has brackets
		if a, err := netip.ParseAddr(u.Hostname()); err != nil || !a.Is6() {
			return nil, "", fmt.Errorf("%q is%s", u.Redacted(), notAnEndpoint)
		}
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return nil, "", fmt.Errorf("the port %s of %s is not between 1 and 65535", port, u.Hostname())
		}
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
	a, err := netip.ParseAddr(host)
	if strings.HasPrefix(text, "[") && !a.Is6() {
		return nil, false
	}
	if err == nil {
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

// Shown returns endpoints as they may be shown to anyone: without passwords.
func Shown(endpoints []string) []string {
	shown := make([]string, len(endpoints))
	for i, text := range endpoints {
		if u, _, err := parseEndpoint(text); err == nil && u.User == nil {
			shown[i] = text
		} else if err == nil {
			shown[i] = u.Redacted()
		}
	}
	return shown
}
