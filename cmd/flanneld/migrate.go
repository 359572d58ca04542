package main

import (
	"context"
	"fmt"
	"io"

	"flanneld/subnet/migrate"
)

// migrateEtcd copies the network from version 2 of etcd's API to version 3, and
// tells what.
func migrateEtcd(ctx context.Context, o *options, out io.Writer) error {
	v2, v3, err := openBoth(o)
	if err != nil {
		return err
	}
	defer v2.Close()
	defer v3.Close()
	m := migrate.Migration{
		From:   v2,
		To:     v3,
		DryRun: o.dryRun,
		Report: func(line string) { fmt.Fprintln(out, line) },
	}
	return m.Run(ctx)
}
