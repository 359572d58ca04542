package fakeaws

import (
	"bytes"
	"errors"
	"io"
	"net/http"
)

// MetadataAddr is where an instance reaches its metadata, at port 80.
const MetadataAddr = "169.254.169.254"

// transport answers requests by handlers, in the caller's goroutine.
type transport struct {
	endpoint, metadata http.Handler
}

// RoundTrip has the handler serve the request and hands out its whole answer.
func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	handler := t.endpoint
	if r.URL.Hostname() == MetadataAddr {
		handler = t.metadata
	}
	if r.Body != nil {
		defer r.Body.Close()
	}
	if handler == nil {
		return nil, errors.New("dialing " + MetadataAddr + ": no route to host")
	}
	in := r.Clone(r.Context())
	in.RequestURI = r.URL.RequestURI()
	if in.Body == nil {
		in.Body = http.NoBody
	}
	if in.Host == "" {
		in.Host = r.URL.Host
	}
	w := &recorder{header: http.Header{}}
	handler.ServeHTTP(w, in)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	w.WriteHeader(http.StatusOK)
	return &http.Response{
		Status: http.StatusText(w.status), StatusCode: w.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.header, Body: io.NopCloser(&w.body), ContentLength: int64(w.body.Len()), Request: r,
	}, nil
}

// recorder is a ResponseWriter that keeps what is written.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header { return r.header }

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
}

func (r *recorder) Write(text []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	return r.body.Write(text)
}
