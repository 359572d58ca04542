package kube

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"strings"

	"k8s.io/client-go/rest"
)

// Cluster returns what tells the cluster from others: the keys of the CAs that are trusted to
// sign for its API, in words; or the API's URL, if that has none of its own. It asks nobody. It is
// empty as long as it is not known how to reach the API.
func (o Options) Cluster() string {
	c := client{options: o}
	config, err := c.load()
	if err != nil {
		return ""
	}
	return clusterOf(config)
}

// clusterOf is Cluster of what has been read.
func clusterOf(config *rest.Config) string {
	content := config.CAData
	if len(content) == 0 && config.CAFile != "" {
		var err error
		if content, err = os.ReadFile(config.CAFile); err != nil {
			return ""
		}
	}
	var words []string
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		if ca, err := x509.ParseCertificate(block.Bytes); err == nil {
			words = append(words, fmt.Sprintf("%x", sha256.Sum256(ca.RawSubjectPublicKeyInfo)))
		}
	}
	if len(words) == 0 {
		words = []string{config.Host}
	}
	return strings.Join(words, " ")
}
