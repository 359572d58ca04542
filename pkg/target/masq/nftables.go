package masq

import (
	"context"

	"flanneld/pkg/state"
)

type nftables struct{}

func newNFTables() nftables { return nftables{} }

func (nftables) dump(context.Context) (state.Have, error)    { return nil, errAbsent }
func (nftables) apply(context.Context, state.Op) error       { return errAbsent }
func (nftables) watch(context.Context, func(), func()) error { return nil }
func (nftables) others(context.Context) (string, error)      { return "", nil }
