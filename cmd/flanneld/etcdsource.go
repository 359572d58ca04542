package main

import (
	"context"
	"fmt"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"k8s.io/klog/v2"

	"flanneld/pkg/file"
	"flanneld/pkg/printable"
	"flanneld/subnet"
	"flanneld/subnet/etcd"
	"flanneld/subnet/etcdv2"
	"flanneld/subnet/etcdv3"
)

// etcdSource is etcd.
var etcdSource = source{
	name:      "etcd",
	asked:     func(o *options) bool { return o.kube == nil },
	open:      openEtcd,
	host:      func(o *options) string { return machineName(o.iface.MachineID) },
	endpoints: func(o *options, _ store) []string { return etcd.Shown(o.etcd.Endpoints) },
	examine:   func(ctx context.Context, o *options) ([]subnet.ServerHealth, error) { return o.etcd.Examine(ctx) },
	configKey: func(o *options) string { return printable.Name(path.Join(o.etcd.FlatRoot(), "config")) },
	savedAs:   savedAsEtcd,
	alone: func(context.Context, *options, func(string)) (release func(), err error) {
		return func() {}, nil // leases tell hosts apart
	},
}

// savedAsEtcd names the network by its prefix. What names one network has one name: version
// 2 of etcd's API does not care about a slash in front, version 3 does.
func savedAsEtcd(o *options) (file, network string) {
	network = path.Clean(o.etcd.Prefix)
	if o.etcdAPI == apiV2 {
		network = o.etcd.Root()
	}
	return savedName(network), network
}

// openEtcd returns the store that the options name. It does not connect.
func openEtcd(_ context.Context, o *options, _ func(string)) (store, error) {
	o.etcd.Lag = new(etcd.Lag)
	v2, v3, err := openBoth(o)
	if err != nil {
		return nil, err
	}
	if o.etcdAPI == apiAuto {
		return etcd.NewAuto(v2, v3, usedAPI{o.usedAPIFile(), new(file.Patient[[]byte])}), nil
	}
	klog.Infof("using version %s of etcd's API, as -etcd-api says", o.etcdAPI)
	if o.etcdAPI == apiV2 {
		return etcd.NewFixed(2, v2, v3), nil
	}
	return etcd.NewFixed(3, v2, v3), nil
}

// usedAPIFile is where the version of etcd's API is kept that this host used last;
// empty if it is not to be.
func (o *options) usedAPIFile() string {
	if o.stateDir == "" || o.kube != nil {
		return ""
	}
	saved, _ := savedAsEtcd(o)
	return usedAPIBeside(filepath.Join(o.stateDir, saved))
}

// usedAPIBeside names that file beside a state file.
func usedAPIBeside(saved string) string { return strings.TrimSuffix(saved, savedExt) + ".api" }

// usedAPI is that file. Nothing waits for long where its file system gives no answer.
type usedAPI struct {
	path    string
	reading *file.Patient[[]byte]
}

// Used implements etcd.Memory.
func (u usedAPI) Used() int {
	content, err := u.reading.Do(context.Background(), func() ([]byte, error) { return file.ReadOwn(u.path, 0) })
	version, notNumber := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil || notNumber != nil || version != 2 && version != 3 {
		return 0
	}
	return version
}

// Use implements etcd.Memory.
func (u usedAPI) Use(version int) {
	if u.path == "" || u.Used() == version {
		return
	}
	if err := file.Patiently(context.Background(), func() error { return file.Write(u.path, fmt.Appendln(nil, version)) }); err != nil {
		klog.Warningf("the next start would not know which version of etcd's API was used: %v", err)
	}
}

// openBoth returns the stores in both APIs.
func openBoth(o *options) (*etcdv2.Store, *etcdv3.Store, error) {
	shared := o.etcd
	shared.Failing = new(etcd.Failing)
	v2, err := etcdv2.New(shared)
	if err != nil {
		return nil, nil, err
	}
	v3, err := etcdv3.New(shared)
	return v2, v3, err
}
