// Package fence is test equipment: it holds the files of a package to an order, so that
// each can be read with nothing but those before it.
package fence

import (
	"context"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Files returns what breaks the order of the files in a folder: each may use only what is
// declared in those before it, and all are to be named. Test files are left out.
func Files(ctx context.Context, dir string, order ...string) (broken []string, err error) {
	set := token.NewFileSet()
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, err
	}
	var files []*ast.File
	place := make(map[string]int)
	for i, name := range order {
		place[name] = i
	}
	there := make(map[string]bool)
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(set, name, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
		there[filepath.Base(name)] = true
		if _, named := place[filepath.Base(name)]; !named {
			broken = append(broken, fmt.Sprintf("%s has no place in the order", filepath.Base(name)))
		}
	}
	for _, name := range order {
		if !there[name] {
			broken = append(broken, name+" has a place in the order, and is not there")
		}
	}
	uses, err := usesOf(ctx, dir, set, files)
	if err != nil {
		return nil, err
	}
	file := func(at token.Pos) string { return filepath.Base(set.Position(at).Filename) }
	found := make(map[string]bool) // one line for all uses of one thing in one file
	for id, object := range uses {
		if object.Pkg() == nil || object.Pkg().Path() != dir {
			continue // of another package, which may have files of the same names
		}
		user, used := file(id.Pos()), file(object.Pos())
		if user != used && place[user] < place[used] {
			found[fmt.Sprintf("%s uses %s of %s, which comes later", user, object.Name(), used)] = true
		}
	}
	return append(broken, slices.Sorted(maps.Keys(found))...), nil
}

// usesOf returns what the identifiers in the files of a package refer to.
func usesOf(ctx context.Context, dir string, set *token.FileSet, files []*ast.File) (map[*ast.Ident]types.Object, error) {
	list := exec.CommandContext(ctx, "go", "list", "-deps", "-export", "-f", "{{.ImportPath}} {{.Export}}", ".")
	list.Dir = dir
	out, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("listing the packages that %s imports: %w", dir, err)
	}
	exports := make(map[string]string)
	for line := range strings.Lines(string(out)) {
		name, file, _ := strings.Cut(strings.TrimSpace(line), " ")
		exports[name] = file
	}
	lookup := func(name string) (io.ReadCloser, error) { return os.Open(exports[name]) }
	info := types.Info{Uses: make(map[*ast.Ident]types.Object)}
	config := types.Config{Importer: importer.ForCompiler(set, "gc", lookup)}
	if _, err := config.Check(dir, set, files, &info); err != nil {
		return nil, fmt.Errorf("checking the types of %s: %w", dir, err)
	}
	return info.Uses, nil
}
