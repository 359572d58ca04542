package dist_test

import (
	"encoding/xml"
	"errors"
	"io"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	// link is [text](target) or ![text](target).
	link = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	// codeSpan is what is not read as markup.
	codeSpan = regexp.MustCompile("`[^`]*`")
	heading  = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	// notInAnchor is what a heading's anchor leaves out.
	notInAnchor = regexp.MustCompile(`[^\p{L}\p{N}\p{M}_\- ]`)
)

// anchors are the names by which the headings of a document can be linked to, as GitHub
// makes them.
func anchors(text string) []string {
	var all []string
	for _, found := range heading.FindAllStringSubmatch(text, -1) {
		name := notInAnchor.ReplaceAllString(strings.ToLower(found[1]), "")
		all = append(all, strings.ReplaceAll(name, " ", "-"))
	}
	return all
}

// Each link in a document that leads to the repository leads to a file there, and to a heading
// in it; and README leads to all documents.
func TestLinks(t *testing.T) {
	documents, err := filepath.Glob("../Documentation/*.md")
	check(t, err)
	texts := map[string]string{"../README.md": read(t, "../README.md")}
	for _, path := range documents {
		texts[path] = read(t, path)
	}
	linked := map[string]bool{}
	for path, text := range texts {
		for _, found := range link.FindAllStringSubmatch(codeSpan.ReplaceAllString(text, ""), -1) {
			if strings.Contains(found[1], "://") {
				continue
			}
			file, anchor, hasAnchor := strings.Cut(found[1], "#")
			target := path
			if file != "" {
				target = filepath.Join(filepath.Dir(path), file)
			}
			if path == "../README.md" {
				linked[target] = true
			}
			if exists, err := filepath.Glob(target); err != nil || len(exists) == 0 {
				t.Errorf("%s links to %s, which is not there", path, found[1])
				continue
			}
			if hasAnchor && !slices.Contains(anchors(read(t, target)), anchor) {
				t.Errorf("%s links to %s, and there is no such heading", path, found[1])
			}
		}
	}
	for _, path := range documents {
		if !linked[path] {
			t.Errorf("README.md does not link to %s", path)
		}
	}
}

// The picture is well-formed, says in words what it shows, and needs nothing from elsewhere.
func TestPicture(t *testing.T) {
	text := read(t, "../Documentation/packet.svg")
	words := map[string]string{}
	element := ""
	for d := xml.NewDecoder(strings.NewReader(text)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		check(t, err)
		switch token := token.(type) {
		case xml.StartElement:
			element = token.Name.Local
			for _, a := range token.Attr {
				if a.Name.Local == "href" || a.Name.Local != "xmlns" && strings.Contains(a.Value, "://") {
					t.Errorf("%s refers to %s", element, a.Value)
				}
			}
		case xml.CharData:
			words[element] += string(token)
		}
	}
	if len(words["title"]) < 20 || len(words["desc"]) < 200 {
		t.Errorf("the title is %q, and the description %q", words["title"], words["desc"])
	}
	if style := words["style"]; !strings.Contains(style, "prefers-color-scheme: dark") || strings.Contains(style, "url(") || strings.Contains(style, "@import") {
		t.Errorf("the style is %s", style)
	}
}
