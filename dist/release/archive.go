package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// fromDist are the files of dist that a user needs.
var fromDist = []string{
	"flanneld.service", "options.env", "mk-docker-opts.sh",
	"docker.service.d/flannel.conf", "containerd.service.d/flannel.conf", "cni/10-flannel.conflist",
	"aws/iam-policy.json", "cloud-config.yaml", "Vagrantfile", "Dockerfile",
	"monitoring/flanneld.rules.yaml", "monitoring/flanneld.rules.test.yaml", "monitoring/grafana-dashboard.json", "monitoring/podmonitor.yaml",
}

// fill makes the directory that the archive has, and has in usr what is different
// in packages.
func (r *release) fill(dir string, b *binary) error {
	content, err := os.ReadFile(b.path)
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, "flanneld"), content); err != nil {
		return err
	}
	documents, err := filepath.Glob(filepath.Join(r.root, "Documentation", "*.*"))
	if err != nil {
		return err
	}
	files := map[string]string{}
	for _, path := range append(documents, filepath.Join(r.root, "README.md"), filepath.Join(r.root, "LICENSE")) {
		name, err := filepath.Rel(r.root, path)
		if err != nil {
			return err
		}
		files[name] = path
	}
	for _, name := range fromDist {
		files[name] = filepath.Join(r.root, "dist", name)
	}
	if err := r.fillKubernetes(filepath.Join(dir, "kubernetes")); err != nil {
		return err
	}
	for name, path := range files {
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := writeFile(filepath.Join(dir, name), content); err != nil {
			return err
		}
	}
	licences, err := thirdParties(b)
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, "THIRD-PARTY-LICENSES"), licences)
}

func writeFile(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o644)
}

// thirdParties has the licences of all that is linked into the binary.
func thirdParties(b *binary) ([]byte, error) {
	out, err := run("go", "env", "GOROOT")
	if err != nil {
		return nil, err
	}
	type module struct{ Path, Version, Dir string }
	modules := []module{{Path: "The Go standard library", Version: b.info.GoVersion, Dir: strings.TrimSpace(string(out))}}
	download := []string{"mod", "download", "-json"}
	for _, dep := range b.info.Deps {
		download = append(download, dep.Path+"@"+dep.Version)
	}
	if out, err = run("go", download...); err != nil {
		return nil, err
	}
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
		var m module
		if err := d.Decode(&m); err != nil {
			return nil, err
		}
		modules = append(modules, m)
	}
	var all bytes.Buffer
	for _, m := range modules {
		fmt.Fprintf(&all, "%s\n%s %s\n\n", strings.Repeat("=", 72), m.Path, m.Version)
		found := false
		for _, pattern := range []string{"LICEN[CS]E*", "COPYING*", "NOTICE*"} {
			paths, err := filepath.Glob(filepath.Join(m.Dir, pattern))
			if err != nil {
				return nil, err
			}
			for _, path := range paths {
				text, err := os.ReadFile(path)
				if err != nil {
					return nil, err
				}
				all.Write(text)
				all.WriteString("\n")
				found = found || pattern != "NOTICE*"
			}
		}
		if !found {
			return nil, fmt.Errorf("there is no licence of %s in %s", m.Path, m.Dir)
		}
	}
	return all.Bytes(), nil
}

func run(name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(context.Background(), name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("running %s %s: %w: %s", name, args[0], err, stderr.String())
	}
	return out, nil
}

// writeTGZ writes files as an archive.
func (r *release) writeTGZ(name string, files []entry) error {
	archive, err := r.tar(files)
	if err != nil {
		return err
	}
	if archive, err = gzipped(archive); err != nil {
		return err
	}
	return r.write(name, archive)
}
