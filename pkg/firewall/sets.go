package firewall

import (
	"bytes"
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"flanneld/pkg/nfdump"
)

// set is a set or a map.
type set struct {
	key      chainKey
	keyLen   int
	interval bool
	concat   bool
	isMap    bool
	found    map[string]*element // by keys that were asked for; nil for none
	all      []span              // of elements, if they were read
	read     bool
	failed   bool // nothing is known of it
}

// element is what a map has for a key.
type element struct {
	data    []byte
	verdict verdict
	ends    bool // it has a verdict
}

// span is the first and the last of the keys from an element of an interval to its end.
type span struct {
	from, to []byte
	element  *element
}

// maxElements is how many elements of a set are looked at one by one.
const maxElements = 4096

// maxElementSize is how many bytes the kernel takes to tell of one, or more.
const maxElementSize = 256

const (
	setElemIntervalEnd = 1
	setElemCatchall    = 2
	setConcat          = 0x80
)

func (rs *Ruleset) set(family byte, table, of string) *set {
	k := chainKey{family, table, of}
	if s := rs.sets[k]; s != nil {
		return s
	}
	s := &set{key: k, found: make(map[string]*element), failed: true}
	rs.sets[k] = s
	messages, err := rs.conn.Ask(unix.NFT_MSG_GETSET, false, family, nfdump.Name(unix.NFTA_SET_TABLE, table), nfdump.Name(unix.NFTA_SET_NAME, of))
	if err != nil || len(messages) != 1 {
		return s
	}
	a, err := nfdump.Attributes(messages[0].Data)
	if err != nil {
		return s
	}
	flags := a.Number(unix.NFTA_SET_FLAGS)
	s.keyLen = int(a.Number(unix.NFTA_SET_KEY_LEN))
	s.interval, s.concat, s.isMap = flags&unix.NFT_SET_INTERVAL != 0, flags&setConcat != 0, flags&unix.NFT_SET_MAP != 0
	s.failed = s.keyLen <= 0 || s.keyLen > 64
	return s
}

func (rs *Ruleset) lookupStep(c *chain, a nfdump.Attrs) step {
	of, src := a.Text(unix.NFTA_LOOKUP_SET), a.Number(unix.NFTA_LOOKUP_SREG)
	invert := a.Number(unix.NFTA_LOOKUP_FLAGS)&unix.NFT_LOOKUP_F_INV != 0
	dst, isMap := a.Number(unix.NFTA_LOOKUP_DREG), a[unix.NFTA_LOOKUP_DREG] != nil
	return func(w *walk) (truth, verdict) {
		s := rs.set(c.family, c.table, of)
		if s.failed {
			return mayBeAny(w, isMap)
		}
		key := w.get(src, s.keyLen)
		if key.isKnown() {
			e, ok := rs.element(c, s, key.data)
			switch {
			case !ok && isMap:
				return mayBeAny(w, true)
			case !ok: // an older kernel that does not tell of single elements
				t, _ := rs.overlap(c, s, key)
				return w.about(key, inverted(t, invert)), verdict{}
			case e != nil && isMap && e.ends:
				return w.about(key, yes), e.verdict
			case e != nil && isMap:
				w.put(dst, known(e.data))
			}
			return w.about(key, inverted(truthOf(e != nil), invert)), verdict{}
		}
		t, e := rs.overlap(c, s, key)
		t = w.about(key, inverted(t, invert))
		if t == yes && isMap && e.ends {
			return yes, e.verdict
		}
		if t != no && isMap {
			return mayBeAny(w, true)
		}
		return t, verdict{}
	}
}

// mayBeAny is what follows from a set of which nothing is known.
func mayBeAny(w *walk, isMap bool) (truth, verdict) {
	if !isMap {
		return maybe, verdict{}
	}
	_, _ = forget(w)
	return maybe, verdict{kind: unknown}
}

// element asks for what a set has under a key, as rules do. It is nil if there is nothing,
// and not ok if that is not known.
func (rs *Ruleset) element(c *chain, s *set, key []byte) (_ *element, ok bool) {
	if e, asked := s.found[string(key)]; asked {
		return e, true
	}
	e, err := rs.ask(c, s, nfdump.Nest(unix.NFTA_SET_ELEM_KEY, nfdump.Attribute(unix.NFTA_DATA_VALUE, key)))
	if errors.Is(err, unix.ENOENT) {
		// It may have one for all other keys.
		e, err = rs.ask(c, s, nfdump.Attribute(unix.NFTA_SET_ELEM_FLAGS, []byte{0, 0, 0, setElemCatchall}))
		if err != nil {
			e, err = nil, nil // as also if the kernel knows none such
		}
	}
	if err != nil {
		return nil, false
	}
	s.found[string(key)] = e
	return e, true
}

func (rs *Ruleset) ask(c *chain, s *set, one []byte) (*element, error) {
	messages, err := rs.conn.Ask(unix.NFT_MSG_GETSETELEM, false, s.key.family,
		nfdump.Name(unix.NFTA_SET_ELEM_LIST_TABLE, s.key.table), nfdump.Name(unix.NFTA_SET_ELEM_LIST_SET, s.key.name),
		nfdump.Nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, nfdump.Nest(unix.NFTA_LIST_ELEM, one)))
	if err != nil {
		return nil, err
	}
	var e *element
	for _, m := range messages {
		err = eachElement(m, func(a nfdump.Attrs) {
			e = rs.elementOf(c, a)
		})
	}
	if err == nil && e == nil {
		err = unix.ENOENT
	}
	return e, err
}

func (rs *Ruleset) elementOf(c *chain, a nfdump.Attrs) *element {
	e := &element{data: nfdump.Data(a[unix.NFTA_SET_ELEM_DATA])}
	e.verdict, e.ends = rs.verdictOf(c, a[unix.NFTA_SET_ELEM_DATA])
	return e
}

func eachElement(m nfdump.Message, take func(nfdump.Attrs)) error {
	a, err := nfdump.Attributes(m.Data)
	if err != nil {
		return err
	}
	var failed error
	err = nfdump.Each(a[unix.NFTA_SET_ELEM_LIST_ELEMENTS], func(_ uint16, b []byte) {
		e, err := nfdump.Attributes(b)
		if err == nil {
			take(e)
		}
		failed = errors.Join(failed, err)
	})
	return errors.Join(failed, err)
}

// overlap returns whether a set has what a key of which not all is known may be, and the
// element that has it whatever it is.
func (rs *Ruleset) overlap(c *chain, s *set, key value) (t truth, e *element) {
	if s.concat || !rs.readAll(c, s) {
		return maybe, nil
	}
	for _, one := range s.all {
		switch key.within(one.from, one.to) {
		case yes:
			return yes, one.element
		case maybe:
			t = maybe
		case no:
		}
	}
	return t, nil
}

// readAll reads the elements of a set, if they are not too many.
func (rs *Ruleset) readAll(c *chain, s *set) bool {
	if s.read {
		return s.all != nil
	}
	s.read = true
	conn, err := nfdump.Dial()
	if err != nil {
		return false
	}
	defer conn.Close()
	conn.Most = maxElements * maxElementSize
	messages, err := conn.Ask(unix.NFT_MSG_GETSETELEM, true, s.key.family,
		nfdump.Name(unix.NFTA_SET_ELEM_LIST_TABLE, s.key.table), nfdump.Name(unix.NFTA_SET_ELEM_LIST_SET, s.key.name))
	if err != nil {
		return false
	}
	type edge struct {
		at      []byte
		end     bool
		element *element
	}
	edges := []edge{}
	plain := true
	for _, m := range messages {
		err = errors.Join(err, eachElement(m, func(a nfdump.Attrs) {
			flags := a.Number(unix.NFTA_SET_ELEM_FLAGS)
			key := nfdump.Data(a[unix.NFTA_SET_ELEM_KEY])
			plain = plain && flags&setElemCatchall == 0 && len(key) == s.keyLen
			edges = append(edges, edge{key, flags&setElemIntervalEnd != 0, rs.elementOf(c, a)})
		}))
	}
	if err != nil || !plain || len(edges) > maxElements {
		return false
	}
	s.all = make([]span, 0, len(edges))
	if !s.interval {
		for _, e := range edges {
			s.all = append(s.all, span{e.at, e.at, e.element})
		}
		return true
	}
	slices.SortFunc(edges, func(a, b edge) int {
		if order := bytes.Compare(a.at, b.at); order != 0 || a.end == b.end {
			return order
		}
		if a.end {
			return -1
		}
		return 1
	})
	var open *edge
	for i, e := range edges {
		if open != nil {
			s.all = append(s.all, span{open.at, before(e.at), open.element})
		}
		if open = &edges[i]; e.end {
			open = nil
		}
	}
	if open != nil {
		s.all = append(s.all, span{open.at, bytes.Repeat([]byte{0xff}, s.keyLen), open.element})
	}
	return true
}

// before is the number that comes before another one.
func before(b []byte) []byte {
	b = bytes.Clone(b)
	for i := len(b) - 1; i >= 0; i-- {
		b[i]--
		if b[i] != 0xff {
			break
		}
	}
	return b
}
