// Package kubernetes has what Kubernetes is to run, for tests that try it.
package kubernetes

import _ "embed" // for Manifest

// Manifest is what `kubectl apply` takes.
//
//go:embed flanneld.yaml
var Manifest []byte
