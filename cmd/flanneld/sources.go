package main

// sources are those that there are.
var sources = []source{etcdSource, kubernetesSource}

// source returns where the options have subnets come from.
func (o *options) source() source {
	for _, s := range sources {
		if s.asked(o) {
			return s
		}
	}
	panic("no source is asked for")
}
