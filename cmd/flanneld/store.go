package main

import (
	"k8s.io/klog/v2"

	"flanneld/subnet/etcd"
	"flanneld/subnet/etcdv2"
	"flanneld/subnet/etcdv3"
)

// openStore returns the store that the options name. It does not connect.
func openStore(o *options) (etcd.Store, error) {
	if o.etcdAPI != apiAuto {
		klog.Infof("using version %s of etcd's API, as -etcd-api says", o.etcdAPI)
	}
	switch o.etcdAPI {
	case apiV2:
		return etcdv2.New(o.etcd)
	case apiV3:
		return etcdv3.New(o.etcd)
	case apiAuto:
	}
	v2, v3, err := openBoth(o)
	if err != nil {
		return nil, err
	}
	return etcd.NewAuto(v2, v3), nil
}

// openBoth returns the stores in both APIs.
func openBoth(o *options) (*etcdv2.Store, *etcdv3.Store, error) {
	v2, err := etcdv2.New(o.etcd)
	if err != nil {
		return nil, nil, err
	}
	v3, err := etcdv3.New(o.etcd)
	return v2, v3, err
}
