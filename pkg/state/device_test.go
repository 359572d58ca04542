package state

import (
	"encoding/json"
	"net/netip"
	"testing"
)

func TestMAC(t *testing.T) {
	m, err := ParseMAC("AA:bb:cc:dd:ee:0f")
	if err != nil || m.String() != "aa:bb:cc:dd:ee:0f" || !m.IsUnicast() {
		t.Errorf("%v, %v", m, err)
	}
	text, err := json.Marshal(m)
	if err != nil || string(text) != `"aa:bb:cc:dd:ee:0f"` {
		t.Errorf("%s, %v", text, err)
	}
	var back MAC
	if err := json.Unmarshal(text, &back); err != nil || back != m {
		t.Errorf("%v, %v", back, err)
	}
	for _, bad := range []string{"", "aa:bb:cc:dd:ee", "aa:bb:cc:dd:ee:ff:00:11", "x"} {
		if m, err := ParseMAC(bad); err == nil {
			t.Errorf("%q is read as %s", bad, m)
		}
	}
	for _, bad := range []MAC{{}, {1, 2, 3, 4, 5, 6}, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff}} {
		if bad.IsUnicast() {
			t.Errorf("%s is called unicast", bad)
		}
	}
}

func TestSameVXLAN(t *testing.T) {
	v := VXLAN{Name: "flannel.1", VNI: 1, Port: 8472, Lower: "eth0", Local: netip.MustParseAddr("192.168.0.2"), MAC: MAC{2}, MTU: 1450}
	off := v
	off.TxChecksumOff = true
	if !Same(v, v) || !Same(v, off) || Same(off, v) || !Same(off, off) {
		t.Error("the checksum matters where it should not, or the other way round")
	}
	inPlace := v
	inPlace.MAC, inPlace.MTU, inPlace.TxChecksumOff = MAC{4}, 1400, true
	if Same(v, inPlace) || !v.SameTunnel(inPlace) {
		t.Error("the same tunnel is not seen as such")
	}
	for i, change := range []func(*VXLAN){
		func(v *VXLAN) { v.VNI++ }, func(v *VXLAN) { v.Port++ }, func(v *VXLAN) { v.Lower = "eth1" },
		func(v *VXLAN) { v.Local = v.Local.Next() }, func(v *VXLAN) { v.GBP = true }, func(v *VXLAN) { v.Learning = true },
	} {
		w := v
		change(&w)
		if v.SameTunnel(w) || Same(v, w) {
			t.Errorf("change %d makes no difference", i)
		}
	}
}

func TestDeviceNames(t *testing.T) {
	for name, want := range map[string]bool{
		"flannel.1": true, "flannel.4096": true, "flannel0": true, "flannel17": true, "flannel.": false, "flannel": false, "flannel.1x": false,
		"flannel-v6.1": true, "flannel-v6.": false, "flannel-v4.1": false, "flannel0x": false, "flannel0.1": false, "flannel-1": false, "xflannel0": false, "xflannel.1": false, "flannel.-1": false, "": false, "eth0": false,
	} {
		if IsDeviceName(name) != want {
			t.Errorf("%q is ours: %v", name, !want)
		}
	}
}
