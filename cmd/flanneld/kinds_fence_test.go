package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// kindRooms are where it is decided by an object's kind what to do with it: what all kinds
// have in common is enough for everyone else. A backend makes objects, and asks for none's
// kind.
var kindRooms = []string{"pkg/state", "pkg/dataplane/"}

// Nobody outside of those asks of which kind an object is.
func TestKindsFence(t *testing.T) {
	root := filepath.Join("..", "..")
	kinds := keyed(t, filepath.Join(root, "pkg", "state"))
	if !kinds["VXLAN"] || !kinds["Route"] || kinds["Object"] || kinds["Device"] {
		t.Fatalf("the kinds are %v", kinds)
	}
	isKind := func(e ast.Expr) bool {
		s, ok := e.(*ast.SelectorExpr)
		if !ok {
			return false
		}
		x, ok := s.X.(*ast.Ident)
		return ok && x.Name == "state" && kinds[s.Sel.Name]
	}
	files := 0
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			if n := d.Name(); file != root && (strings.HasPrefix(n, ".") || n == "build" || n == "testdata") || matches(kindRooms, filepath.ToSlash(name)+"/") {
				return filepath.SkipDir
			}
			return nil
		case !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") || matches(kindRooms, filepath.ToSlash(filepath.Dir(name))):
			return nil
		}
		positions := token.NewFileSet()
		f, err := parser.ParseFile(positions, file, nil, 0)
		if err != nil {
			return err
		}
		files++
		report := func(n ast.Node) { t.Errorf("%s: the kind of an object is asked for", positions.Position(n.Pos())) }
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.TypeAssertExpr:
				if isKind(n.Type) {
					report(n)
				}
			case *ast.CaseClause:
				for _, e := range n.List {
					if isKind(e) {
						report(e)
					}
				}
			case *ast.IndexExpr: // state.Find[state.VXLAN]
				if s, ok := n.X.(*ast.SelectorExpr); ok && s.Sel.Name == "Find" && isKind(n.Index) {
					report(n)
				}
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && x.Name == "state" && len(n.Sel.Name) > len("Kind") && strings.HasPrefix(n.Sel.Name, "Kind") {
					report(n)
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 100 {
		t.Errorf("only %d files were read", files)
	}
}

// keyed returns the types of a package that have a key.
func keyed(t *testing.T, dir string) map[string]bool {
	t.Helper()
	all := make(map[string]bool)
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if m, ok := d.(*ast.FuncDecl); ok && m.Name.Name == "Key" && m.Recv != nil {
				if of, ok := m.Recv.List[0].Type.(*ast.Ident); ok {
					all[of.Name] = true
				}
			}
		}
	}
	return all
}
