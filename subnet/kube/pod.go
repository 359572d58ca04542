package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// NodeOfPod returns the name of the Node that a pod is on.
func NodeOfPod(ctx context.Context, o Options, namespace, pod string) (string, error) {
	c := client{options: o}
	defer c.close()
	r := request{
		verb: "get", resource: "pods", method: http.MethodGet,
		path:   "/api/v1/namespaces/" + url.PathEscape(namespace) + "/pods/" + url.PathEscape(pod),
		accept: "application/json",
	}
	name, err := nodeOfPod(ctx, &c, r)
	if err != nil {
		return "", fmt.Errorf("looking for the Node of the pod %s/%s, which POD_NAMESPACE and POD_NAME name: %w", namespace, pod, err)
	}
	return name, nil
}

func nodeOfPod(ctx context.Context, c *client, r request) (string, error) {
	resp, err := c.send(ctx, r)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", c.broken(r, err)
	}
	var is struct {
		Spec struct {
			NodeName string `json:"nodeName"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(content, &is); err != nil {
		return "", c.broken(r, err)
	}
	if is.Spec.NodeName == "" {
		return "", errors.New("it is on none yet")
	}
	return is.Spec.NodeName, nil
}
