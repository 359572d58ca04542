package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"flanneld/subnet"
)

// configLook is how often it is looked whether the file of the configuration changed.
const configLook = time.Second

// WatchConfig implements subnet.Assigner.
func (s *Store) WatchConfig(ctx context.Context, yield func(subnet.StoredConfig)) error {
	conf := confFile{path: s.options.NetConfigPath}
	var last *subnet.StoredConfig
	look := time.NewTicker(configLook)
	defer look.Stop()
	for {
		if is, changed := conf.look(); changed && (last == nil || *last != is) {
			last = &is
			yield(is)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-look.C:
		}
	}
}

// confFile is the file with the configuration of the network, as one watch looks at it.
type confFile struct {
	path string

	seen      stamp // as it was when it was last read
	unsettled stamp // as it was when what it said was no JSON
}

// readConfig returns what the file says. That it is not there, or cannot be read, is no failure of
// the API: it is waited for.
func readConfig(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: there is no file %s, as -net-config-path says; in a pod it is mounted from a ConfigMap", subnet.ErrNoConfig, path)
	case err != nil:
		return nil, fmt.Errorf("%w: reading the file of -net-config-path: %w", subnet.ErrNoConfig, err)
	}
	return text, nil
}

// look returns what the file says if it may have changed. A file that is being written is
// left for the next look.
func (c *confFile) look() (is subnet.StoredConfig, changed bool) {
	at := stampOf(c.path)
	if at == c.seen {
		return is, false
	}
	text, err := os.ReadFile(c.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		is.Missing = true
	case err != nil:
		c.seen, is.Unreadable = stamp{}, err.Error()
		return is, true // the next look may read it, though it seems to be the same as ever
	case !json.Valid(text) && c.unsettled != at:
		c.unsettled = at
		return is, false
	}
	c.seen, is.Text = at, string(text)
	return is, true
}
