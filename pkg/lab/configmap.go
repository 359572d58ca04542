package lab

import (
	"fmt"
	"os"
	"path/filepath"
)

// ConfigMapDir is a folder with the files of a ConfigMap, as kubelet mounts it: the files
// are symlinks by way of `..data`, a symlink to a folder that has them all. A new content is
// a new folder, which takes the place of the former one at once.
type ConfigMapDir struct {
	Dir string

	generation int
}

// NewConfigMapDir makes one with these files.
func NewConfigMapDir(dir string, files map[string]string) (*ConfigMapDir, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, fmt.Errorf("making a ConfigMap's folder: %w", err)
	}
	m := &ConfigMapDir{Dir: dir}
	return m, m.Set(files)
}

// Set replaces all files.
func (m *ConfigMapDir) Set(files map[string]string) error {
	if err := m.set(files); err != nil {
		return fmt.Errorf("replacing a ConfigMap's files: %w", err)
	}
	return nil
}

func (m *ConfigMapDir) set(files map[string]string) error {
	const data = "..data"
	in := func(name ...string) string { return filepath.Join(append([]string{m.Dir}, name...)...) }
	old, err := os.ReadDir(m.Dir)
	if err != nil {
		return err
	}
	m.generation++
	now := fmt.Sprintf("..generation_%d", m.generation)
	if err := os.Mkdir(in(now), 0o755); err != nil {
		return err
	}
	for name, text := range files {
		if err := os.WriteFile(in(now, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	if err := os.Symlink(now, in(data+"_tmp")); err != nil {
		return err
	}
	if err := os.Rename(in(data+"_tmp"), in(data)); err != nil {
		return err
	}
	for name := range files {
		if _, err := os.Lstat(in(name)); err == nil {
			continue
		}
		if err := os.Symlink(filepath.Join(data, name), in(name)); err != nil {
			return err
		}
	}
	for _, entry := range old {
		if _, kept := files[entry.Name()]; kept || entry.Name() == data {
			continue
		}
		if err := os.RemoveAll(in(entry.Name())); err != nil {
			return err
		}
	}
	return nil
}
