package kube

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"

	"flanneld/pkg/printable"
)

// Check returns why the options could never be used, whatever happens outside, if so.
func (o Options) Check() error {
	if _, err := newNames(o.AnnotationPrefix); err != nil {
		return err
	}
	if o.APIURL != "" {
		text := o.APIURL
		if !strings.Contains(text, "://") {
			text = "http://" + text
		}
		if u, err := url.Parse(text); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
			return fmt.Errorf("-kube-api-url %s is not the URL of an API server, such as https://192.0.2.1:6443", printable.Quote(o.APIURL))
		}
		return nil
	}
	if o.Kubeconfig == "" && inCluster() == "" {
		return errNowhere
	}
	return nil
}

// errNowhere is that nothing says where the API is.
var errNowhere = errors.New("the Kubernetes API cannot be found: this is no pod, as KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set, and neither -kubeconfig-file nor -kube-api-url is given")

// inCluster returns the URL of the API as a pod knows it; nothing if this is none.
func inCluster() string {
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return ""
	}
	return "https://" + net.JoinHostPort(host, port)
}
