package fakeaws

import (
	"fmt"
	"net/http"
)

// apiError is an error that EC2 answers with.
type apiError struct {
	status  int
	code    string
	message string
}

func (e *apiError) Error() string { return e.code + ": " + e.message }

// errorStatus has the HTTP status of the codes for which it is not 400.
var errorStatus = map[string]int{
	"AuthFailure":           http.StatusUnauthorized,
	"DryRunOperation":       http.StatusPreconditionFailed,
	"InternalError":         http.StatusInternalServerError,
	"RequestLimitExceeded":  http.StatusServiceUnavailable,
	"UnauthorizedOperation": http.StatusForbidden,
}

func errorf(code, format string, args ...any) *apiError {
	status, ok := errorStatus[code]
	if !ok {
		status = http.StatusBadRequest
	}
	return &apiError{status: status, code: code, message: fmt.Sprintf(format, args...)}
}
