package main_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// verb is where a literal has what differs.
var verb = regexp.MustCompile(`%[-+# 0-9.\[\]]*[a-zA-Z]`)

// literals returns all text in the program, without what differs.
func literals(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	check(t, filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && (d.Name() == "build" || d.Name() == "dist" || d.Name() == "lab") {
			if err == nil {
				err = filepath.SkipDir
			}
			return err
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if text, err := strconv.Unquote(lit.Value); err == nil {
					all.WriteString(verb.ReplaceAllString(text, "\n") + "\n")
				}
			}
			return true
		})
		return nil
	}))
	return all.String()
}

// placeholder is what a line in the document has for what differs, beside "…".
var placeholder = regexp.MustCompile(`\b[A-Z]{3,}\b|eth0|[0-9]+s\b`)

// apart is what stands between pieces that the program puts together.
var apart = regexp.MustCompile("…|; ")

// What the document quotes of the log, the program says: a line is made of a few pieces of
// text at most, each of some words, as single ones are found anywhere.
func TestDocumentQuotesTheLog(t *testing.T) {
	const kernel = "VXLAN device with the specified VNI already exists"
	program := literals(t) + kernel
	const most, words3 = 3, 3 // pieces between two things that differ, and words of each
	for _, line := range logTable(t, "## What the log says") {
		for _, part := range apart.Split(placeholder.ReplaceAllString(line.text, "…"), -1) {
			words := strings.Fields(part)
			pieces := 0
			for len(words) > 0 {
				k := len(words)
				for k > 0 && !strings.Contains(program, strings.Join(words[:k], " ")) {
					k--
				}
				if k == 0 {
					t.Errorf("the program does not say %q of %q", words[0], line.text)
					break
				}
				if k < words3 && k < len(strings.Fields(part)) {
					t.Errorf("the program says %q only in another line, of %q", strings.Join(words[:k], " "), line.text)
				}
				words = words[k:]
				pieces++
			}
			if pieces > most {
				t.Errorf("the program says %q in %d pieces, of %q", part, pieces, line.text)
			}
		}
	}
}
