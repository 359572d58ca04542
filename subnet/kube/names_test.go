package kube

import (
	"strings"
	"testing"
)

func TestPrefix(t *testing.T) {
	for prefix, want := range map[string]string{
		"flannel.alpha.coreos.com":   "flannel.alpha.coreos.com/public-ip",
		"flannel.alpha.coreos.com/":  "flannel.alpha.coreos.com/public-ip",
		"flannel.alpha.coreos.com/b": "flannel.alpha.coreos.com/b-public-ip",
		"example.com/second-":        "example.com/second-public-ip",
		"a_b.example-1.com":          "a_b.example-1.com/public-ip",
	} {
		n, err := newNames(prefix)
		if err != nil || n[publicIP] != want {
			t.Errorf("%q: %q, %v; want %q", prefix, n[publicIP], err, want)
		}
	}
	for _, prefix := range []string{"", "/", "flannel", "flannel/x", "a.b/c/d", "A.b", "a b.c", "a..b", ".a.b", "a.b/ü", "a.b\n"} {
		if _, err := newNames(prefix); err == nil || !strings.Contains(err.Error(), "-kube-annotation-prefix") {
			t.Errorf("%q: %v, want an error that names the option", prefix, err)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	if _, err := New(Options{AnnotationPrefix: "a.b"}); err == nil || !strings.Contains(err.Error(), "NODE_NAME") {
		t.Errorf("without a name: %v", err)
	}
}
