package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// entry is a file of an archive.
type entry struct {
	name    string
	content []byte
	program bool // can be executed
}

// programs are the files that can be executed.
var programs = map[string]bool{"flanneld": true, "mk-docker-opts.sh": true}

// entries are all files in a directory, in alphabetical order. Their names begin with prefix.
func entries(dir, prefix string) (all []entry, err error) {
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		content, err := os.ReadFile(path)
		all = append(all, entry{filepath.Join(prefix, name), content, programs[e.Name()]})
		return err
	})
	return all, err
}

// tar is an archive of files, all of them as old as the commit.
func (r *release) tar(files []entry) ([]byte, error) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.content)), ModTime: r.time}
		if f.program {
			h.Mode = 0o755
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.content); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return archive.Bytes(), err
}

func gzipped(content []byte) ([]byte, error) {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write(content)
	err = errors.Join(err, w.Close())
	return b.Bytes(), err
}
