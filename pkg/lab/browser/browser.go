// Package browser is test equipment: a real browser that looks at a page.
package browser

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// Tab is a page in a browser.
type Tab struct {
	t   testing.TB
	ctx context.Context
	url string

	mu       sync.Mutex
	problems []string
}

// shared is the browser that all tabs are in. It ends with the last of them.
var shared struct {
	sync.Mutex
	tabs int
	ctx  context.Context
	end  func() error
}

// enter returns the browser for a tab of a test.
func enter(t testing.TB) context.Context {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.tabs == 0 {
		check(t, start())
	}
	shared.tabs++
	t.Cleanup(func() {
		shared.Lock()
		defer shared.Unlock()
		if shared.tabs--; shared.tabs == 0 {
			if err := shared.end(); err != nil {
				t.Errorf("the browser: %v", err)
			}
		}
	})
	return shared.ctx
}

// start starts the browser. The caller holds shared.
func start() error {
	folder, err := os.MkdirTemp("", "browser-")
	if err != nil {
		return err
	}
	options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]),
		chromedp.ExecPath("chromium"), chromedp.NoSandbox, chromedp.UserDataDir(folder), chromedp.Flag("no-proxy-server", true))
	allocator, free := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, cancel := chromedp.NewContext(allocator)
	shared.ctx, shared.end = ctx, func() error {
		cancel()
		free()
		return os.RemoveAll(folder)
	}
	if err := chromedp.Do(ctx); err != nil {
		return errors.Join(err, shared.end())
	}
	return nil
}

// Open has a browser look at a URL, in a tab of its own, until the test ends.
func Open(t testing.TB, url string, width, height int64, dark bool) *Tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(enter(t))
	t.Cleanup(cancel)
	b := &Tab{t: t, ctx: ctx, url: url}
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	check(t, chromedp.Listen(ctx, b.listen))
	check(t, call(ctx, log.Enable, cdp.Empty{}))
	check(t, call(ctx, network.Enable, network.EnableParams{}))
	check(t, call(ctx, runtime.Enable, cdp.Empty{}))
	check(t, call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}))
	check(t, chromedp.Do(ctx, chromedp.EmulateViewport(width, height), chromedp.Navigate(url)))
	return b
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("the browser: %v", err)
	}
}

func call[P any](ctx context.Context, c cdp.Command[P, cdp.Empty], params P) error {
	_, err := chromedp.Call(ctx, c, params)
	return err
}

// listen takes what happens in the browser.
func (b *Tab) listen(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		b.problems = append(b.problems, fmt.Sprintf("exception: %+v", *e.ExceptionDetails))
	case *runtime.EventConsoleAPICalled:
		if e.Type == "error" || e.Type == "warning" {
			b.problems = append(b.problems, fmt.Sprintf("console: %s", e.Args[0].Value))
		}
	case *log.EventEntryAdded:
		b.problems = append(b.problems, "log: "+e.Entry.Text+" "+e.Entry.URL)
	case *network.EventRequestWillBeSent:
		if !strings.HasPrefix(e.Request.URL, b.url) && !strings.HasPrefix(e.Request.URL, "data:") {
			b.problems = append(b.problems, "asks "+e.Request.URL)
		}
	}
}

// Problems returns what was wrong: what the page logged, exceptions, and what it asked of others.
func (b *Tab) Problems() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.problems)
}

// Eval returns the value of an expression.
func Eval[T any](b *Tab, expression string) T {
	b.t.Helper()
	value, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression))
	check(b.t, err)
	return value
}

// Text returns the text of the elements that a selector is about.
func (b *Tab) Text(selector string) string {
	b.t.Helper()
	return Eval[string](b, fmt.Sprintf("[...document.querySelectorAll(%q)].map(e => e.textContent).join('\\n')", selector))
}

// Wait waits until an expression is true, and returns how long that took.
func (b *Tab) Wait(expression string, within time.Duration) time.Duration {
	b.t.Helper()
	begin := time.Now()
	for {
		is := Eval[bool](b, expression)
		took := time.Since(begin)
		if is {
			return took
		}
		if took > within {
			b.t.Fatalf("within %s this did not become true: %s; the page says\n%s\n%q %q", within, expression, b.Text("body"), Eval[[]string](b, "[...document.querySelectorAll('input')].map(e => e.value)"), b.Problems())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Press presses keys, as a user does.
func (b *Tab) Press(keys string) {
	b.t.Helper()
	check(b.t, chromedp.Do(b.ctx, chromedp.KeyEvent(keys)))
}

// Screenshot writes what is seen to a file.
func (b *Tab) Screenshot(file string) {
	b.t.Helper()
	picture, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	check(b.t, err)
	check(b.t, os.WriteFile(file, picture, 0o644))
}
