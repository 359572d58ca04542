package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"flanneld/pkg/file"
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
		if is, changed := conf.look(ctx); changed && (last == nil || *last != is) {
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

// readConfig returns what a file says. That it is not there, or cannot be read, is no failure of
// the API: it is waited for.
func (s *Store) readConfig(ctx context.Context) ([]byte, error) {
	path := s.options.NetConfigPath
	text, err := s.conf.Do(ctx, func() ([]byte, error) { return file.Read(path) })
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: there is no file %s, as -net-config-path says; in a pod it is mounted from a ConfigMap", subnet.ErrNoConfig, path)
	case errors.Is(err, file.ErrNoAnswer):
		err = fmt.Errorf("%s: %w", path, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: reading the file of -net-config-path: %w", subnet.ErrNoConfig, err)
	}
	return text, nil
}

// confFile is the file with the configuration of the network, as one watch looks at it.
type confFile struct {
	path    string
	looking file.Patient[found]

	seen      stamp // as it was when it was last read
	unsettled stamp // as it was when what it said was no JSON
}

// found is what a look finds.
type found struct {
	at   stamp
	text []byte // if at is not as it was seen
	err  error  // of the reading of that
}

// look returns what the file says if it may have changed. A file that is being written is
// left for the next look. One whose file system gives no answer cannot be read.
func (c *confFile) look(ctx context.Context) (is subnet.StoredConfig, changed bool) {
	path, seen := c.path, c.seen
	now, err := c.looking.Do(ctx, func() (found, error) {
		now := found{at: stampOf(path)}
		if now.at != seen {
			now.text, now.err = file.Read(path)
		}
		return now, nil
	})
	switch {
	case ctx.Err() != nil:
		return is, false
	case err != nil:
		c.seen, is.Unreadable = stamp{}, fmt.Sprintf("reading %s: %v", path, err)
		return is, true
	case now.at == c.seen:
		return is, false
	case errors.Is(now.err, fs.ErrNotExist):
		is.Missing = true
	case now.err != nil:
		c.seen, is.Unreadable = stamp{}, now.err.Error()
		return is, true // the next look may read it, though it seems to be the same as ever
	case !json.Valid(now.text) && c.unsettled != now.at:
		c.unsettled = now.at
		return is, false
	}
	c.seen, is.Text = now.at, string(now.text)
	return is, true
}
