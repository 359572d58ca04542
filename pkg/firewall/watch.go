package firewall

import (
	"context"
	"time"

	"flanneld/pkg/nfdump"
)

// watchPause is how long changes may pile up before they are taken off the socket: of what
// the kernel tells about each, no more is of interest than that there is some.
const watchPause = 100 * time.Millisecond

// Watch calls changed after changes of any rule in nf_tables, and whenever there may have
// been some, until ctx ends. It returns nil if the kernel has no netfilter that could
// change. ip_tables tells nobody of changes.
func Watch(ctx context.Context, changed func()) error {
	return nfdump.Watch(ctx, watchPause, changed, changed, nil) // what was before is not known
}
