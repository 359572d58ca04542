package target

import (
	"context"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"flanneld/pkg/state"
)

// Mux is several targets as one.
type Mux struct {
	// Rest holds every kind that no part does.
	Rest  Target
	Parts []Part
}

// Part is a target and the kinds of objects that are there.
type Part struct {
	Target
	Kinds []state.Kind
}

func (m Mux) of(k state.Kind) Target {
	for _, p := range m.Parts {
		if slices.Contains(p.Kinds, k) {
			return p.Target
		}
	}
	return m.Rest
}

// Expect implements Expecter.
func (m Mux) Expect(want state.Set) {
	tell := func(t Target) {
		if e, ok := t.(Expecter); ok {
			e.Expect(want)
		}
	}
	tell(m.Rest)
	for _, p := range m.Parts {
		tell(p.Target)
	}
}

// Dump implements Target.
func (m Mux) Dump(ctx context.Context) (state.Have, error) {
	have, err := m.Rest.Dump(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range m.Parts {
		more, err := p.Dump(ctx)
		if err != nil {
			return nil, err
		}
		maps.Copy(have, more)
	}
	return have, nil
}

// Apply implements Target.
func (m Mux) Apply(ctx context.Context, ops []state.Op) []error {
	errs := make([]error, 0, len(ops))
	for len(ops) > 0 {
		t, row := m.of(ops[0].Key().Kind), 1
		for row < len(ops) && m.of(ops[row].Key().Kind) == t {
			row++
		}
		errs = append(errs, t.Apply(ctx, ops[:row])...)
		ops = ops[row:]
	}
	return errs
}

// Watch implements Target.
func (m Mux) Watch(ctx context.Context, ready func(), emit func(Event)) error {
	g, ctx := errgroup.WithContext(ctx)
	var begun sync.WaitGroup
	var one sync.Mutex // emit is not called by two at once
	watch := func(t Target) {
		begun.Add(1)
		begin := sync.OnceFunc(begun.Done)
		g.Go(func() error {
			defer begin()
			return t.Watch(ctx, begin, func(e Event) {
				one.Lock()
				defer one.Unlock()
				emit(e)
			})
		})
	}
	watch(m.Rest)
	for _, p := range m.Parts {
		watch(p.Target)
	}
	g.Go(func() error {
		begun.Wait()
		if ctx.Err() == nil {
			ready()
		}
		return nil
	})
	return g.Wait()
}
