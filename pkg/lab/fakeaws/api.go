package fakeaws

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

const (
	apiVersion   = "2016-11-15"
	apiNamespace = "http://ec2.amazonaws.com/doc/" + apiVersion + "/"
	maxBody      = 1 << 20
)

// action is one that the API has.
type action struct {
	class Class
	// do makes the answer, under the cloud's lock.
	do func(*Cloud, url.Values) (response, error)
}

var actions = map[string]action{
	"CreateRoute":                       {Mutating, (*Cloud).apiCreateRoute},
	"ReplaceRoute":                      {Mutating, (*Cloud).apiReplaceRoute},
	"DeleteRoute":                       {Mutating, (*Cloud).apiDeleteRoute},
	"ModifyNetworkInterfaceAttribute":   {Mutating, (*Cloud).apiModifyInterface},
	"ModifyInstanceAttribute":           {Mutating, (*Cloud).apiModifyInstance},
	"DescribeInstances":                 {NonMutating, (*Cloud).apiDescribeInstances},
	"DescribeNetworkInterfaces":         {NonMutating, (*Cloud).apiDescribeInterfaces},
	"DescribeNetworkInterfaceAttribute": {NonMutating, (*Cloud).apiDescribeInterfaceAttribute},
	"DescribeRouteTables":               {NonMutating, (*Cloud).apiDescribeRouteTables},
	"DescribeSubnets":                   {NonMutating, (*Cloud).apiDescribeSubnets},
	"DescribeVpcs":                      {NonMutating, (*Cloud).apiDescribeVpcs},
}

// response is the answer to an action.
type response interface{ setRequestID(id string) }

// head is what all answers begin with.
type head struct {
	RequestID string `xml:"requestId"`
}

func (h *head) setRequestID(id string) { h.RequestID = id }

// failure is the answer that tells of an error.
type failure struct {
	Code      string `xml:"Errors>Error>Code"`
	Message   string `xml:"Errors>Error>Message"`
	RequestID string `xml:"RequestID"`
}

// Endpoint is the EC2 API as an HTTP handler.
func (c *Cloud) Endpoint() http.Handler { return http.HandlerFunc(c.serveAPI) }

func (c *Cloud) serveAPI(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return // the client has gone, or says too much
	}
	form, err := parseForm(r, body)
	if err == nil && form.Get("Version") != apiVersion {
		err = errorf("NoSuchVersion", "The requested version (%s) of service AmazonEC2 does not exist", form.Get("Version"))
	}
	var answer response
	id := c.requestID()
	if err == nil {
		answer, err = c.handle(r, body, form)
	}
	c.mu.Lock()
	delay := time.NewTimer(c.delay)
	c.mu.Unlock()
	defer delay.Stop()
	select {
	case <-r.Context().Done():
		return
	case <-delay.C:
	}
	if err != nil {
		var failed *apiError
		if !errors.As(err, &failed) {
			failed = errorf("InternalError", "%s", err)
		}
		c.write(w, failed.status, id, xml.Name{Local: "Response"},
			failure{Code: failed.code, Message: failed.message, RequestID: id})
		return
	}
	answer.setRequestID(id)
	c.write(w, http.StatusOK, id, xml.Name{Space: apiNamespace, Local: form.Get("Action") + "Response"}, answer)
}

func (c *Cloud) write(w http.ResponseWriter, status int, id string, name xml.Name, answer any) {
	var text bytes.Buffer
	encoder := xml.NewEncoder(&text)
	encoder.Indent("", "    ")
	if err := encoder.EncodeElement(answer, xml.StartElement{Name: name}); err != nil {
		panic(err) // an answer that cannot be written is an error of this package
	}
	w.Header().Set("Content-Type", "text/xml;charset=UTF-8")
	w.Header().Set("X-Amzn-Requestid", id)
	w.Header().Set("Date", c.clock().UTC().Format(http.TimeFormat))
	w.WriteHeader(status)
	_, _ = io.WriteString(w, xml.Header+text.String())
}

// handle records a request and does what it asks for, if the caller may.
func (c *Cloud) handle(r *http.Request, body []byte, form url.Values) (answer response, err error) {
	do := func() error {
		call := Call{Time: c.clock(), Action: form.Get("Action"), Form: form}
		answer, err = c.obey(r, body, &call)
		obeyed := err
		if err == nil && c.lost[call.Action] > 0 {
			c.lost[call.Action]--
			err = errorf("InternalError", "An internal error has occurred")
		}
		if failed := (*apiError)(nil); errors.As(err, &failed) {
			call.Code = failed.code
		}
		c.calls = append(c.calls, call)
		return obeyed
	}
	if actions[form.Get("Action")].class == Mutating {
		_ = c.change(do)
	} else {
		c.mu.Lock()
		defer c.mu.Unlock()
		_ = do()
	}
	return answer, err
}

func (c *Cloud) obey(r *http.Request, body []byte, call *Call) (response, error) {
	who, err := c.authenticate(r, body)
	if err != nil {
		return nil, err
	}
	call.AccessKeyID = who.AccessKeyID
	a, ok := actions[call.Action]
	if !ok {
		return nil, errorf("InvalidAction", "The action %s is not valid for this web service.", call.Action)
	}
	if !c.buckets[bucketOf(call.Action, a.class, call.Form)].take(c.clock()) {
		return nil, errorf("RequestLimitExceeded", "Request limit exceeded.")
	}
	if err := c.authorize(who.arn, call.Action, a.class, call.Form); err != nil {
		return nil, err
	}
	if call.Form.Get("DryRun") == "true" {
		return nil, errorf("DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
	}
	if a.class == NonMutating {
		c.described++
	}
	return a.do(c, call.Form)
}

// bucketOf is the class of bucket that a request takes from.
func bucketOf(name string, class Class, form url.Values) Class {
	if name != "DescribeInstances" && name != "DescribeNetworkInterfaces" || form.Has("MaxResults") ||
		form.Has("Filter.1.Name") || form.Has("InstanceId.1") || form.Has("NetworkInterfaceId.1") {
		return class
	}
	return Unfiltered
}

// parseForm reads the parameters of a POST or GET request.
func parseForm(r *http.Request, body []byte) (url.Values, error) {
	text := string(body)
	if r.Method == http.MethodGet {
		text = r.URL.RawQuery
	}
	form, err := url.ParseQuery(text)
	if err != nil {
		return nil, errorf("MalformedQueryString", "The query string contains a syntax error: %s", err)
	}
	return form, nil
}

func (c *Cloud) requestID() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.serial++
	return fmt.Sprintf("%08x-0000-4000-8000-%012x", c.clock().Unix(), c.serial)
}

// listOf reads the parameters NAME.1, NAME.2 and so on.
func listOf(form url.Values, name string) []string {
	var list []string
	for i := 1; form.Has(name + "." + strconv.Itoa(i)); i++ {
		list = append(list, form.Get(name+"."+strconv.Itoa(i)))
	}
	return list
}

func formatInt(n int64) string { return strconv.FormatInt(n, 10) }

func formatTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }
