package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/klog/v2"

	"flanneld/pkg/notice"
	"flanneld/pkg/once"
	"flanneld/pkg/printable"
	"flanneld/subnet"
	"flanneld/subnet/kube"
)

// kubernetesSource is Kubernetes.
var kubernetesSource = source{
	name:      "the Kubernetes API",
	asked:     func(o *options) bool { return o.kube != nil },
	open:      openKubernetes,
	host:      func(o *options) string { return o.kube.NodeName },
	endpoints: func(_ *options, s store) []string { return s.(*kube.Store).Endpoints() },
	examine: func(ctx context.Context, o *options) ([]subnet.ServerHealth, error) {
		return []subnet.ServerHealth{kube.Examine(ctx, o.kube.Options)}, nil
	},
	configKey: func(o *options) string { return printable.Name(o.kube.NetConfigPath) },
	savedAs: func(o *options) (file, network string) {
		// The annotations of a network have a prefix of their own.
		return savedName("kubernetes/" + o.kube.AnnotationPrefix), fmt.Sprintf("Kubernetes, Node %s, %s", o.kube.NodeName, o.kube.AnnotationPrefix)
	},
	cluster: func(o *options) string { return o.kube.Cluster() },
	alone: func(ctx context.Context, o *options, tell func(string)) (release func(), err error) {
		node := savedName(o.kube.AnnotationPrefix + "/" + o.kube.NodeName)
		what := fmt.Sprintf("the Node %s, and its annotations with %s", printable.Name(o.kube.NodeName), o.kube.AnnotationPrefix)
		return awaitAlone(ctx, "node/"+node, what, tell)
	},
}

// The pauses between two tries to ask the API for what is asked once.
const (
	kubeRetryFirst = 100 * time.Millisecond
	kubeRetryMost  = 2 * time.Second
)

// openKubernetes waits until it is known which Node this host is, by asking for our pod if
// that is what the environment names.
func openKubernetes(ctx context.Context, o *options, tell func(string)) (store, error) {
	k := o.kube
	if k.NodeName == "" && (k.pod == "" || k.namespace == "") {
		return nil, errors.New("the name of this host's Node is not known: set NODE_NAME to spec.nodeName of this pod, or POD_NAME and POD_NAMESPACE")
	}
	var log notice.Log
	retry := once.Backoff{First: kubeRetryFirst, Most: kubeRetryMost}
	for k.NodeName == "" {
		name, err := kube.NodeOfPod(ctx, k.Options, k.namespace, k.pod)
		if err == nil {
			k.NodeName = name
			break
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if log.State("our Node", err.Error()) {
			klog.Warningf("waiting: %v", err)
		}
		tell("waiting: " + err.Error())
		if err := once.Sleep(ctx, retry.Double()); err != nil {
			return nil, err
		}
	}
	return kube.New(k.Options)
}
