package kernel

import (
	"testing"

	"flanneld/pkg/target/targettest"
)

func TestMain(m *testing.M) { targettest.InNetns(m) }
