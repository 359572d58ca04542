package kube

import (
	"fmt"
	"regexp"
	"strings"

	"flanneld/pkg/printable"
)

// key is an annotation of a Node that matters, without its prefix.
type key int

// These are the keys. What a daemon writes of its own Node is up to publicIPv6; the rest is
// for people.
const (
	managed key = iota // "true": a host of this network
	backendType
	backendData
	publicIP
	backendV6Data
	publicIPv6
	publicIPOverwrite
	publicIPv6Overwrite
	requestedIP
	requestedIPv6
	keyCount
)

var keyNames = [keyCount]string{
	managed:             "kube-subnet-manager",
	backendType:         "backend-type",
	backendData:         "backend-data",
	publicIP:            "public-ip",
	backendV6Data:       "backend-v6-data",
	publicIPv6:          "public-ipv6",
	publicIPOverwrite:   "public-ip-overwrite",
	publicIPv6Overwrite: "public-ipv6-overwrite",
	requestedIP:         "node-public-ip",
	requestedIPv6:       "node-public-ipv6",
}

// names are the annotations' names with the prefix.
type names [keyCount]string

// prefixForm is what a prefix has to be like: a domain of two parts or more, a slash, and
// maybe the beginning of a name.
var prefixForm = regexp.MustCompile(`^([a-z0-9_-]+\.)+[a-z0-9_-]+/([A-Za-z0-9._-]*-)?$`)

// newNames returns the names with a prefix as an option gives it.
func newNames(prefix string) (names, error) {
	full := prefix
	if !strings.Contains(full, "/") {
		full += "/"
	}
	if last := full[len(full)-1]; last != '/' && last != '-' {
		full += "-"
	}
	if !prefixForm.MatchString(full) {
		return names{}, fmt.Errorf("-kube-annotation-prefix %s cannot begin the name of an annotation: it has to be a domain such as flannel.alpha.coreos.com, in small letters and with a dot, and may go on with one slash and the beginning of a name", printable.Quote(prefix))
	}
	var n names
	for k := range keyCount {
		n[k] = full + keyNames[k]
	}
	return n, nil
}

// find returns which key a name is of.
func (n *names) find(name []byte) (key, bool) {
	for k := range n {
		if string(name) == n[k] {
			return key(k), true
		}
	}
	return 0, false
}
