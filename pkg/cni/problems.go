package cni

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"flanneld/pkg/file"
	"flanneld/pkg/printable"
)

// Problem is what keeps pods from getting their network by the file.
type Problem struct {
	Subject string
	Problem string
	Remedy  string // a command; may be empty
}

// folders are where runtimes have plugins: as the project's own archive says, and as
// distributions have them.
var folders = []string{"/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"}

// Problems looks for what keeps the runtime from using the file as it was last written.
func (c *Conf) Problems() []Problem {
	var all []Problem
	if first := c.before(); first != "" {
		all = append(all, Problem{
			Subject: first,
			Problem: "the container runtime takes the first file by name, and so this one rather than " + filepath.Base(c.Path),
			Remedy:  "mv " + printable.Word(first) + " " + printable.Word(first+".off"),
		})
	}
	missing := slices.DeleteFunc(slices.Clone(c.plugins), installed)
	if len(missing) == 0 {
		return all
	}
	// In a container there may be another one in its place, with the plugins.
	if i := slices.IndexFunc(folders, file.IsRemoved); i >= 0 {
		return append(all, Problem{
			Subject: folders[i],
			Problem: "it was removed after this daemon was started, which therefore does not see whether the CNI plugins " + strings.Join(missing, ", ") + " are there: start the daemon again",
		})
	}
	if !installed(loopback) { // where some plugins are lost, all may be
		missing = append(missing, loopback)
	}
	return append(all, Problem{
		Subject: c.Path,
		Problem: "pods need CNI plugins that are in none of " + strings.Join(folders, ", ") + ": install " + strings.Join(missing, ", "),
	})
}

// Look is Problems for a file that is to be, and writes none.
func (c *Conf) Look(v Values) ([]Problem, error) {
	v.Name = formerName(c.Path)
	_, list, err := c.render(v)
	if err != nil {
		return nil, fmt.Errorf("template %w", err)
	}
	c.plugins = list.types()
	return c.Problems(), nil
}

// loopback is a plugin that some runtimes call for each pod, whatever the file says.
const loopback = "loopback"

// before returns the file that a runtime takes in the place of ours; none if it cannot be
// known.
func (c *Conf) before() string {
	entries, err := os.ReadDir(filepath.Dir(c.Path)) // by name
	if err != nil {
		return ""
	}
	for _, e := range entries {
		switch filepath.Ext(e.Name()) {
		case ".conf", Extension, ".json":
			if e.Name() < filepath.Base(c.Path) && !e.IsDir() {
				return filepath.Join(filepath.Dir(c.Path), e.Name())
			}
		}
	}
	return ""
}

// installed reports whether a plugin is there, as far as can be seen: where a link leads may
// not be seen in a container.
func installed(plugin string) bool {
	return slices.ContainsFunc(folders, func(folder string) bool {
		info, err := os.Lstat(filepath.Join(folder, plugin))
		if err != nil {
			return false
		}
		mode := info.Mode()
		return mode.Type() == fs.ModeSymlink || mode.IsRegular() && mode.Perm()&0o111 != 0
	})
}
