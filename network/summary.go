package network

import (
	"fmt"
	"strings"
)

// summary gathers what is said alike of many things, to say it in one line.
type summary struct {
	order []string
	about map[string][]fmt.Stringer
}

func (s *summary) add(what string, about fmt.Stringer) {
	if s.about == nil {
		s.about = make(map[string][]fmt.Stringer)
	}
	if s.about[what] == nil {
		s.order = append(s.order, what)
	}
	s.about[what] = append(s.about[what], about)
}

// log writes a line for each thing said; of what it is said, it names a few.
func (s *summary) log(printf func(string, ...any)) {
	const most = 3
	for _, what := range s.order {
		about := s.about[what]
		var names []string
		for _, a := range about[:min(most, len(about))] {
			names = append(names, a.String())
		}
		text := strings.Join(names, "; ")
		if n := len(about) - most; n > 0 {
			text += fmt.Sprintf("; and %d more", n)
		}
		printf("%s: %s", text, what)
	}
}
