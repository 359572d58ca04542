package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/deb"
	_ "github.com/goreleaser/nfpm/v2/rpm"
)

// writePackages makes packages of what is in the archive's directory.
func (r *release) writePackages(dir string, b *binary) error {
	// Packages have programs where the distribution has its own.
	for _, name := range []string{"flanneld.service", "docker.service.d/flannel.conf"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		text = bytes.ReplaceAll(text, []byte("/usr/local/bin/"), []byte("/usr/bin/"))
		if err := writeFile(filepath.Join(dir, "usr", name), text); err != nil {
			return err
		}
	}
	arch := b.arch
	if arch == "arm" {
		arch = "arm7"
	}
	variables := map[string]string{"ARCH": arch, "VERSION": packageVersion(r.version, r.time), "DIR": dir}
	if err := os.Chdir(filepath.Join(r.root, "dist")); err != nil { // the paths in nfpm.yaml begin there
		return err
	}
	config, err := nfpm.ParseFileWithEnvMapping("nfpm.yaml", func(name string) string { return variables[name] })
	if err != nil {
		return err
	}
	for _, format := range []string{"deb", "rpm"} {
		info, err := config.Get(format)
		if err != nil {
			return err
		}
		info.MTime = r.time
		info = nfpm.WithDefaults(info)
		packager, err := nfpm.Get(format)
		if err != nil {
			return err
		}
		var pkg bytes.Buffer
		if err := packager.Package(info, &pkg); err != nil {
			return fmt.Errorf("making the %s package: %w", format, err)
		}
		if err := r.write(packager.ConventionalFileName(info), pkg.Bytes()); err != nil {
			return err
		}
	}
	return nil
}
