package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"flanneld/pkg/printable"
	"flanneld/pkg/status"
)

// The exit statuses of -status.
const (
	exitHealthy    = 0
	exitDegraded   = 1
	exitNotRunning = 2
)

// printStatus prints how the daemon is that works for the subnet file, and returns the exit
// status.
func printStatus(ctx context.Context, o *options, out io.Writer) int {
	content, err := ask(ctx, o.subnetFile, "/status.json")
	var s status.Status
	if err == nil {
		err = json.Unmarshal(content, &s)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, printable.Line(err.Error()))
		return exitNotRunning
	}
	if o.json {
		_, err = out.Write(content)
	} else {
		err = s.Print(out, time.Now())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, printable.Line(err.Error()))
	}
	if s.Health == status.Healthy {
		return exitHealthy
	}
	return exitDegraded
}

var errNotRunning = errors.New("no flanneld runs")

// ask asks the daemon that works for a subnet file.
func ask(ctx context.Context, subnetFile, path string) ([]byte, error) {
	socket := socketFile(subnetFile)
	ctx, cancel := context.WithTimeout(ctx, 2*askTime)
	defer cancel()
	client := http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
		DisableKeepAlives: true,
	}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://flanneld"+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	answer, err := client.Do(r)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return nil, fmt.Errorf("%w for the subnet file %s: nobody answers at %s; a daemon with another one is asked with -subnet-file", errNotRunning, subnetFile, socket)
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("only root, or the user whom flanneld runs as, can ask it: %w", err)
	case err != nil:
		return nil, fmt.Errorf("flanneld does not answer: %w", err)
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("flanneld, asked for %s, says %s", path, answer.Status)
	}
	return content, err
}
