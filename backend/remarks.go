package backend

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"flanneld/pkg/printable"
	"flanneld/subnet"
)

// elsewhere names who reads keys that no backend of this program does.
var elsewhere = map[string]string{
	"ListenPort":                  "flannel's backend wireguard",
	"ListenPortV6":                "flannel's backend wireguard",
	"PersistentKeepaliveInterval": "flannel's backend wireguard",
	"Mode":                        "flannel's backend wireguard",
	"PSK":                         "flannel's backends wireguard and ipsec",
	"UDPEncap":                    "flannel's backend ipsec",
	"ESPProposal":                 "flannel's backend ipsec",
	"PreStartupCommand":           "flannel's backend extension",
	"PostStartupCommand":          "flannel's backend extension",
	"SubnetAddCommand":            "flannel's backend extension",
	"SubnetRemoveCommand":         "flannel's backend extension",
	"ShutdownCommand":             "flannel's backend extension",
	"AccessKeyID":                 "flannel's backends tencent-vpc and ali-vpc",
	"AccessKeySecret":             "flannel's backends tencent-vpc and ali-vpc",
	"Name":                        "flannel on Windows",
	"MacPrefix":                   "flannel on Windows",
	"DNSServerList":               "flannel on Windows",
}

// Remarks returns which keys of the configuration do not do what they say, and why.
func (t Table) Remarks(c *subnet.Config, h Host) []string {
	remarks := slices.Clone(c.Remarks)
	if len(c.Backend) == 0 {
		return remarks
	}
	known := []string{"Type"}
	for _, b := range t {
		if b.Name == c.BackendType {
			known = append(known, b.Keys...)
		}
	}
	remarks = append(remarks, subnet.KeyRemarks("Backend.", c.Backend, known, func(key string) string {
		var readers []string
		for _, b := range t {
			if containsKey(b.Keys, key) {
				readers = append(readers, b.Name)
			}
		}
		if len(readers) > 0 {
			return fmt.Sprintf("is a key of %s, and not of the backend %s", strings.Join(readers, " and "), c.BackendType)
		}
		for name, reader := range elsewhere {
			if strings.EqualFold(name, key) {
				return fmt.Sprintf("is a key of %s, and not of the backend %s", reader, c.BackendType)
			}
		}
		return ""
	})...)
	var p PathMTU
	if containsKey(known, "MTU") && json.Unmarshal(c.Backend, &p) == nil && p.MTU > h.MTU() {
		remarks = append(remarks, printable.Line(fmt.Sprintf("Backend.MTU %d is more than the MTU %d of the interface %s, which counts", p.MTU, h.MTU(), h.Narrowest().Iface)))
	}
	return remarks
}

func containsKey(keys []string, key string) bool {
	return slices.ContainsFunc(keys, func(k string) bool { return strings.EqualFold(k, key) })
}
