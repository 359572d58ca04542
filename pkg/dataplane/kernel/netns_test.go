package kernel

import (
	"testing"

	"flanneld/pkg/dataplane/dataplanetest"
)

func TestMain(m *testing.M) { dataplanetest.InNetns(m) }
