package main

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "flanneld/"

// fence is what packages must not import, themselves or through others. A
// pattern is a package, or all packages below it where it ends in a slash.
type fence struct {
	of     []string
	except []string
	not    []string
}

// The rooms of the project, as Documentation/design.md has them.
var fences = []fence{
	{of: []string{""}, except: []string{"cmd/"}, not: []string{"cmd/"}},
	{of: []string{"pkg/"}, not: []string{"backend", "backend/", "network", "network/", "subnet", "subnet/"}},
	{of: []string{"subnet", "subnet/"}, not: []string{"backend", "backend/", "network", "network/", "pkg/state", "pkg/dataplane", "pkg/dataplane/"}},
	{of: []string{"backend", "backend/"}, not: []string{"network", "network/", "subnet/", "pkg/dataplane", "pkg/dataplane/"}},
	{of: []string{"network", "network/"}, not: []string{"subnet/", "backend/", "doctor"}},
	{of: []string{"doctor"}, not: []string{"subnet/", "backend/"}},
	{of: []string{"pkg/ip", "pkg/tun"}, not: []string{"pkg/"}},
	{of: []string{"pkg/nfdump"}, not: []string{"pkg/dataplane/", "pkg/firewall"}},
	{of: []string{"pkg/state"}, except: []string{"pkg/ip"}, not: []string{"pkg/dataplane", "pkg/dataplane/", "pkg/lab"}},
}

// netlinkUsers may import a netlink library. Who is attached to a TUN device, and
// whose it is, is told by netlink only. The lab is test equipment.
var netlinkUsers = map[string][]string{
	"github.com/vishvananda/netlink": {"pkg/tun", "pkg/lab"},
	"github.com/mdlayher/netlink":    {"pkg/dataplane/netfilter"},
	"github.com/google/nftables":     {"pkg/dataplane/netfilter"},
}

func TestFences(t *testing.T) {
	direct := imports(t)
	for _, must := range []string{"cmd/flanneld", "subnet", "backend/hostgw", "network", "pkg/dataplane/kernel"} {
		if direct[must] == nil {
			t.Fatalf("%s was not found", must)
		}
	}
	for _, f := range fences {
		for name := range direct {
			if !matches(f.of, name) || matches(f.except, name) {
				continue
			}
			for _, imported := range reach(direct, name) {
				if matches(f.not, imported) {
					t.Errorf("%s must not import %s", name, imported)
				}
			}
		}
	}
	for name, imported := range direct {
		for _, i := range imported {
			for library, users := range netlinkUsers {
				if (i == library || strings.HasPrefix(i, library+"/")) && !slices.Contains(users, name) {
					t.Errorf("%s must not import %s", name, i)
				}
			}
		}
	}
}

// matches reports whether one of the patterns is for the package. The empty
// pattern is for all.
func matches(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		return p == "" || p == name || strings.HasSuffix(p, "/") && strings.HasPrefix(name, p)
	})
}

// reach returns all packages of the module that a package imports, also
// through others.
func reach(direct map[string][]string, name string) []string {
	var found []string
	for todo := []string{name}; len(todo) > 0; todo = todo[1:] {
		for _, i := range direct[todo[0]] {
			if direct[i] != nil && i != name && !slices.Contains(found, i) {
				found = append(found, i)
				todo = append(todo, i)
			}
		}
	}
	return found
}

// imports returns what each package of the module imports, tests left out. Names
// are without the module's.
func imports(t *testing.T) map[string][]string {
	t.Helper()
	root := filepath.Join("..", "..")
	direct := make(map[string][]string)
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			if n := d.Name(); file != root && (strings.HasPrefix(n, ".") || n == "build" || n == "testdata") {
				return filepath.SkipDir
			}
			return nil
		case !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go"):
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(file))
		if err != nil {
			return err
		}
		name := path.Clean(filepath.ToSlash(dir))
		if direct[name] == nil {
			direct[name] = []string{}
		}
		for _, spec := range f.Imports {
			i, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			direct[name] = append(direct[name], strings.TrimPrefix(i, module))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return direct
}

// The walks through the code name what there is.
func TestWalks(t *testing.T) {
	read := func(name string) string {
		t.Helper()
		b, err := os.ReadFile(filepath.Join("../..", name))
		if err != nil {
			t.Error(err)
		}
		return string(b)
	}
	_, walks, ok := strings.Cut(read("Documentation/design.md"), "\n## Four walks through the code\n")
	if walks, _, _ = strings.Cut(walks, "\n## "); !ok {
		t.Fatal("there are none")
	}
	var file, code string
	stops := 0
	for _, quoted := range regexp.MustCompile("`([^`\n]+)`").FindAllStringSubmatch(walks, -1) {
		name := quoted[1]
		switch {
		case strings.HasSuffix(name, ".go"):
			file, code = name, read(name)
		case strings.HasSuffix(name, "/"):
			if _, err := os.Stat(filepath.Join("../..", name)); err != nil {
				t.Error(err)
			}
		case token.IsIdentifier(name):
			stops++
			if !regexp.MustCompile(`(?m)^(func|type|var) (\([^)]*\) )?` + name + `\b`).MatchString(code) {
				t.Errorf("%s does not declare %s", file, name)
			}
		}
	}
	if stops < 40 {
		t.Errorf("only %d stops were found", stops)
	}
}
