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

// What the document quotes of the log, the program says: between two things that differ are
// a few pieces of text. Each is some words within a literal, as single ones are found
// anywhere, or all of a literal between two things that differ.
func TestDocumentQuotesTheLog(t *testing.T) {
	const kernel = "VXLAN device with the specified VNI already exists"
	const mostPieces, fewWords = 3, 3
	program := placeholder.ReplaceAllString(literals(t)+kernel, "\n")
	whole := make(map[string]bool)
	for line := range strings.Lines(program) {
		whole[strings.Trim(line, " :;,\n")] = true
	}
	var said func(words []string, pieces int) bool
	said = func(words []string, pieces int) bool {
		for k := len(words); k > 0 && pieces > 0; k-- {
			piece := strings.Join(words[:k], " ")
			if (k >= fewWords && strings.Contains(program, piece) || whole[strings.Trim(piece, " :;,")]) && said(words[k:], pieces-1) {
				return true
			}
		}
		return len(words) == 0
	}
	for _, line := range logTable(t, "## What the log says") {
		for _, part := range apart.Split(placeholder.ReplaceAllString(line.text, "…"), -1) {
			if !said(strings.Fields(strings.Trim(part, " :")), mostPieces) {
				t.Errorf("the program does not say %q, of %q", part, line.text)
			}
		}
	}
}
