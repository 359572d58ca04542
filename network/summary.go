package network

import (
	"fmt"
	"strings"

	"flanneld/pkg/notice"
)

// summary gathers what happened alike to many things, to log it in one line.
type summary struct {
	order []string
	about map[string]*mention
}

// mention names a few of many things.
type mention struct {
	names []string
	more  int
}

// maxNamed is how many are named.
const maxNamed = 3

func (m *mention) add(name string) {
	if len(m.names) < maxNamed {
		m.names = append(m.names, name)
	} else {
		m.more++
	}
}

func (s *summary) add(what string, about fmt.Stringer) {
	m := s.about[what]
	if m == nil {
		if s.about == nil {
			s.about = make(map[string]*mention)
		}
		m = new(mention)
		s.about[what] = m
		s.order = append(s.order, what)
	}
	var name string
	if len(m.names) < maxNamed { // there may be ten thousands that go unnamed
		name = about.String()
	}
	m.add(name)
}

// log logs each of these lines.
func (s *summary) log(to *notice.Gather) {
	var lines []string
	for _, what := range s.order {
		m := s.about[what]
		text := strings.Join(m.names, "; ")
		if m.more > 0 {
			text += fmt.Sprintf("; and %d more", m.more)
		}
		lines = append(lines, text+": "+what)
	}
	to.Add(lines...)
}
