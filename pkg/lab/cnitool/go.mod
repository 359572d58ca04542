module flanneld/pkg/lab/cnitool

go 1.26.0

tool github.com/containernetworking/cni/cnitool

require github.com/containernetworking/cni v1.2.3 // indirect
