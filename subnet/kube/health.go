package kube

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"flanneld/pkg/printable"
	"flanneld/subnet"
)

// Examine asks the API what it is.
func Examine(ctx context.Context, o Options) subnet.ServerHealth {
	c := client{options: o}
	defer c.close()
	return subnet.QuickestOf(func() subnet.ServerHealth { return c.health(ctx) })
}

func (c *client) health(ctx context.Context) (h subnet.ServerHealth) {
	h.Name = "the Kubernetes API"
	if _, base, err := c.get(); err == nil {
		h.Name = base.Redacted()
	}
	r := request{verb: "get", resource: "version", method: http.MethodGet, path: "/version", accept: "application/json"}
	begun := time.Now()
	resp, err := c.send(ctx, r)
	if err != nil {
		h.Err = err
		return h
	}
	defer func() { _ = resp.Body.Close() }()
	content, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	h.Took = time.Since(begun)
	h.Date, _ = http.ParseTime(resp.Header.Get("Date")) // some do not say
	h.At = time.Now()
	var is struct{ GitVersion string }
	switch {
	case err != nil:
		h.Err = c.broken(r, err)
	case json.Unmarshal(content, &is) != nil || is.GitVersion == "":
		h.Err = errors.New("it does not say which version it is")
	default:
		h.Version = printable.Name(is.GitVersion)
	}
	return h
}
