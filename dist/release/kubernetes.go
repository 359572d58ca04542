package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
)

// versioned are the files of dist/kubernetes that say which version they are of, and where.
var versioned = map[string]func(r *release) (from, to string){
	"flanneld.yaml": func(r *release) (string, string) {
		return `image: "flanneld:dev"`, fmt.Sprintf("image: %q", "flanneld:"+r.version)
	},
	"chart/Chart.yaml": func(r *release) (string, string) {
		return "version: 0.0.0-dev\nappVersion: dev\n", fmt.Sprintf("version: %s\nappVersion: %q\n", chartVersion(r.version, r.time), r.version)
	},
}

// fillKubernetes makes the directory with what Kubernetes takes, for this version.
func (r *release) fillKubernetes(dir string) error {
	from := filepath.Join(r.root, "dist", "kubernetes")
	files, err := entries(filepath.Join(from, "chart"), "chart")
	if err != nil {
		return err
	}
	for _, name := range []string{"flanneld.yaml", "kustomization.yaml"} {
		content, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			return err
		}
		files = append(files, entry{name: name, content: content})
	}
	for _, f := range files {
		if version := versioned[f.name]; version != nil {
			from, to := version(r)
			if !bytes.Contains(f.content, []byte(from)) {
				return fmt.Errorf("%s has no %q, to write the version there", f.name, from)
			}
			f.content = bytes.Replace(f.content, []byte(from), []byte(to), 1)
		}
		if err := writeFile(filepath.Join(dir, f.name), f.content); err != nil {
			return err
		}
	}
	return nil
}

// writeKubernetes writes the manifest, and the chart as Helm packs it.
func (r *release) writeKubernetes() error {
	dir, err := os.MkdirTemp("", "flanneld-release-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := r.fillKubernetes(dir); err != nil {
		return err
	}
	manifest, err := os.ReadFile(filepath.Join(dir, "flanneld.yaml"))
	if err != nil {
		return err
	}
	if err := r.write("flanneld-"+r.version+".yaml", manifest); err != nil {
		return err
	}
	chart, err := entries(filepath.Join(dir, "chart"), "flanneld")
	if err != nil {
		return err
	}
	return r.writeTGZ("flanneld-"+chartVersion(r.version, r.time)+".tgz", chart)
}
