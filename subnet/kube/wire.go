package kube

import (
	"errors"
	"fmt"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"
)

// The API sends Nodes as protocol buffers. Of 4 kB and more only a few fields matter; all
// others are skipped where they are, so that the heartbeat of a Node costs next to nothing,
// and nothing of it stays in memory. The numbers are those of the fields in k8s.io/api/core/v1
// and k8s.io/apimachinery, which never change.

// envelope is what each object in this encoding begins with.
const envelope = "k8s\x00"

var errWire = errors.New("not an object in the encoding of protocol buffers")

// fields calls visit with each field that has a length, and scalar with each number.
func fields(b []byte, visit func(n int, v []byte) error, scalar func(n int, v uint64)) error {
	for len(b) > 0 {
		n, t, size := protowire.ConsumeTag(b)
		if size < 0 {
			return errWire
		}
		b = b[size:]
		switch t {
		case protowire.BytesType:
			v, size := protowire.ConsumeBytes(b)
			if size < 0 {
				return errWire
			}
			if err := visit(int(n), v); err != nil {
				return err
			}
			b = b[size:]
		case protowire.VarintType:
			v, size := protowire.ConsumeVarint(b)
			if size < 0 {
				return errWire
			}
			if scalar != nil {
				scalar(int(n), v)
			}
			b = b[size:]
		default:
			size := protowire.ConsumeFieldValue(n, t, b)
			if size < 0 {
				return errWire
			}
			b = b[size:]
		}
	}
	return nil
}

// object takes an object out of its envelope, and says of what kind it is.
func object(b []byte) (kind string, raw []byte, err error) {
	if len(b) < len(envelope) || string(b[:len(envelope)]) != envelope {
		return "", nil, errWire
	}
	err = fields(b[len(envelope):], func(n int, v []byte) error {
		switch n {
		case 1: // typeMeta
			return fields(v, func(n int, v []byte) error {
				if n == 2 {
					kind = string(v)
				}
				return nil
			}, nil)
		case 2:
			raw = v
		}
		return nil
	}, nil)
	return kind, raw, err
}

// event takes what a watch brings apart.
func event(b []byte) (kind string, object []byte, err error) {
	err = fields(b, func(n int, v []byte) error {
		switch n {
		case 1:
			kind = string(v)
		case 2: // a RawExtension
			return fields(v, func(n int, v []byte) error {
				if n == 1 {
					object = v
				}
				return nil
			}, nil)
		}
		return nil
	}, nil)
	return kind, object, err
}

// page is one part of a list of Nodes.
type page struct {
	nodes    []node
	revision uint64
	next     string // to ask for the next part with; empty for the last
}

// page reads a NodeList.
func (n *names) page(b []byte) (p page, err error) {
	err = fields(b, func(f int, v []byte) error {
		switch f {
		case 1:
			return fields(v, func(f int, v []byte) (err error) {
				switch f {
				case 2:
					p.revision, err = parseRevision(v)
				case 3:
					p.next = string(v)
				}
				return err
			}, nil)
		case 2:
			one, err := n.node(v)
			p.nodes = append(p.nodes, one)
			return err
		}
		return nil
	}, nil)
	return p, err
}

// node reads a Node.
func (n *names) node(b []byte) (is node, err error) {
	err = fields(b, func(f int, v []byte) error {
		switch f {
		case 1:
			return fields(v, func(f int, v []byte) (err error) {
				switch f {
				case 1:
					is.name = string(v)
				case 5:
					is.uid = string(v)
				case 6:
					is.revision, err = parseRevision(v)
				case 8:
					return fields(v, func(int, []byte) error { return nil }, func(f int, v uint64) {
						if f == 1 {
							is.created = int64(v)
						}
					})
				case 12:
					return n.annotation(v, &is.notes)
				}
				return err
			}, nil)
		case 2:
			return fields(v, func(f int, v []byte) error {
				switch {
				case f == 1:
					is.podCIDR = string(v)
				case f == 7 && is.podCIDRs != "":
					is.podCIDRs += "," + string(v)
				case f == 7:
					is.podCIDRs = string(v)
				}
				return nil
			}, nil)
		case 3: // status
			return fields(v, func(f int, v []byte) error {
				if f != 4 || is.available {
					return nil
				}
				var kind, status []byte
				err := fields(v, func(f int, v []byte) error {
					switch f {
					case 1:
						kind = v
					case 2:
						status = v
					}
					return nil
				}, nil)
				is.available = string(kind) == networkUnavailable && string(status) == "False"
				return err
			}, nil)
		}
		return nil
	}, nil)
	return is, err
}

// annotation reads one, and keeps it if it matters.
func (n *names) annotation(b []byte, notes *notes) error {
	var name, value []byte
	err := fields(b, func(f int, v []byte) error {
		switch f {
		case 1:
			name = v
		case 2:
			value = v
		}
		return nil
	}, nil)
	if k, matters := n.find(name); err == nil && matters {
		notes[k] = note{string(value), true}
	}
	return err
}

// parseRevision reads a resourceVersion.
func parseRevision(text []byte) (uint64, error) {
	r, err := strconv.ParseUint(string(text), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("the resourceVersion %.40q is not a number: this is not an API of Kubernetes' own", text)
	}
	return r, nil
}
