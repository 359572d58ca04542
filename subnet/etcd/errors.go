package etcd

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Errors of the stores that detectAPI knows.
var (
	// ErrNoAPI: the server answers, and does not have the store's API.
	ErrNoAPI = errors.New("the server does not offer")
	// ErrRefused: the server wants another user, or does not permit the request.
	ErrRefused = errors.New("etcd refuses the request")
)

// UnavailableError is the failure of each endpoint that was asked.
type UnavailableError struct{ failures []error }

func (e *UnavailableError) Error() string { return "etcd cannot be asked: " + e.text() }

// text names each endpoint with what was seen, and gives each advice once.
func (e *UnavailableError) text() string {
	texts := make([]string, len(e.failures))
	given := make(map[string]bool)
	for i, f := range e.failures {
		texts[i] = f.Error()
		if failure := (*endpointError)(nil); errors.As(f, &failure) {
			texts[i] = failure.text(!given[failure.Advice])
			given[failure.Advice] = true
		}
	}
	return strings.Join(texts, "; ")
}

func (e *UnavailableError) Unwrap() []error { return e.failures }

// Steady returns the part of a message that stays the same for as long as the failure does,
// whatever was asked.
func (e *UnavailableError) Steady() string { return e.Error() }

// failures are those of endpoints, by their numbers.
type failures map[int]error

// unavailable returns the error of a request that no endpoint answered. What stays so is
// said in the same words, whichever endpoint was asked first.
func (f failures) unavailable(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, examineTimeout)
	defer cancel()
	var g sync.WaitGroup
	u := &UnavailableError{}
	for _, k := range slices.Sorted(maps.Keys(f)) {
		u.failures = append(u.failures, f[k])
		if e := (*endpointError)(nil); errors.As(f[k], &e) && e.doubtful {
			g.Go(func() { e.examine(ctx) })
		}
	}
	g.Wait()
	return u
}

// Diagnosis is what was seen of a server that failed, and what to do about it.
type Diagnosis struct {
	Seen   string
	Advice string
	// doubtful: to know more, the server has to be examined.
	doubtful bool
}

// text returns a diagnosis in words.
func (d Diagnosis) text(url string, advice bool) string {
	if !advice || d.Advice == "" {
		return url + ": " + d.Seen
	}
	return url + ": " + d.Seen + " (" + d.Advice + ")"
}

// endpointError is the failure of one endpoint.
type endpointError struct {
	Diagnosis
	name    string
	options Options
	server  Server
	cause   error
	unsent  bool // the request never left
}

func (e *endpointError) text(advice bool) string {
	return e.Diagnosis.text(e.name, advice)
}
func (e *endpointError) Error() string { return e.text(true) }
func (e *endpointError) Unwrap() error { return e.cause }

// Unanswered reports whether another endpoint may do better.
func Unanswered(err error) bool {
	var e *endpointError
	return errors.As(err, &e)
}

func unsent(err error) bool {
	var e *endpointError
	return errors.As(err, &e) && e.unsent
}

// asUnsent is the failure of a request that was made before another one, which never left.
func asUnsent(err error) error {
	if e := (*endpointError)(nil); errors.As(err, &e) {
		before := *e
		before.unsent = true
		return &before
	}
	return err
}

// Explain says what a failure of server s means to the person who set the flags.
// Another server may do better.
func (o Options) Explain(s Server, err error, unsent bool) error {
	return o.Failed(s, o.diagnose(s, err), err, unsent)
}

// Failed is Explain for a failure whose meaning is known.
func (o Options) Failed(s Server, d Diagnosis, cause error, unsent bool) error {
	return &endpointError{Diagnosis: d, name: s.name(), options: o, server: s, cause: cause, unsent: unsent}
}

// Answered is the error that server s answered with: no other server would do better.
func (o Options) Answered(s Server, d Diagnosis, cause error) error {
	return &answerError{d.text(s.name(), true), cause}
}

type answerError struct {
	text  string
	cause error
}

func (e *answerError) Error() string { return e.text }
func (e *answerError) Unwrap() error { return e.cause }

// Steady is that of UnavailableError.
func (e *answerError) Steady() string { return e.text }
