package fakeaws

import (
	"net/url"
	"strconv"
	"strings"
)

type interfacesAnswer struct {
	head
	Interfaces set[interfaceItem] `xml:"networkInterfaceSet"`
	NextToken  string             `xml:"nextToken,omitempty"`
}

// interfaceItem is an interface by itself and, without its zone, as a part of
// an instance.
type interfaceItem struct {
	ID         string          `xml:"networkInterfaceId"`
	Subnet     string          `xml:"subnetId"`
	VPC        string          `xml:"vpcId"`
	Zone       string          `xml:"availabilityZone,omitempty"`
	Owner      string          `xml:"ownerId"`
	Status     string          `xml:"status"`
	MAC        string          `xml:"macAddress"`
	Addr       string          `xml:"privateIpAddress"`
	DNS        string          `xml:"privateDnsName"`
	Check      bool            `xml:"sourceDestCheck"`
	Groups     set[string]     `xml:"groupSet"`
	Attachment *attachmentItem `xml:"attachment"`
	Addrs      set[addrItem]   `xml:"privateIpAddressesSet"`
	Addrs6     set[addr6Item]  `xml:"ipv6AddressesSet"`
	Type       string          `xml:"interfaceType"`
	Tags       *set[string]    `xml:"tagSet"`
}

type attachmentItem struct {
	ID            string `xml:"attachmentId"`
	Instance      string `xml:"instanceId,omitempty"`
	InstanceOwner string `xml:"instanceOwnerId,omitempty"`
	Index         int    `xml:"deviceIndex"`
	Status        string `xml:"status"`
	Time          string `xml:"attachTime"`
	Delete        bool   `xml:"deleteOnTermination"`
}

type addrItem struct {
	Addr    string `xml:"privateIpAddress"`
	DNS     string `xml:"privateDnsName"`
	Primary bool   `xml:"primary"`
}

type addr6Item struct {
	Addr string `xml:"ipv6Address"`
}

func (c *Cloud) interfaceItem(n *Interface) interfaceItem {
	item := interfaceItem{
		ID: n.ID, Subnet: n.Subnet.ID, VPC: n.Subnet.VPC.ID, Zone: n.Subnet.Zone, Owner: accountID,
		Status: "available", MAC: n.MAC.String(), Addr: n.Addr.String(), DNS: c.dnsName(n),
		Check: n.check.at(c.visible()), Type: "interface", Tags: &set[string]{},
		Addrs: set[addrItem]{[]addrItem{{Addr: n.Addr.String(), DNS: c.dnsName(n), Primary: true}}},
	}
	if n.six.IsValid() {
		item.Addrs6.Items = []addr6Item{{n.six.String()}}
	}
	if i := n.instance.at(c.visible()); i != nil {
		item.Status = "in-use"
		item.Attachment = &attachmentItem{
			ID: n.attachment, Instance: i.ID, InstanceOwner: accountID, Index: n.index,
			Status: "attached", Time: formatTime(n.attached), Delete: true,
		}
	}
	return item
}

// dnsName is the private name, such as ip-10-0-1-4.eu-central-1.compute.internal.
func (c *Cloud) dnsName(n *Interface) string {
	return "ip-" + strings.ReplaceAll(n.Addr.String(), ".", "-") + "." + c.Region + ".compute.internal"
}

func (c *Cloud) interfaceFields() fields[*Interface] {
	attached := func(value func(attachmentItem) string) func(*Interface) []string {
		return func(n *Interface) []string {
			if a := c.interfaceItem(n).Attachment; a != nil {
				return []string{value(*a)}
			}
			return nil
		}
	}
	addr := one(func(n *Interface) string { return n.Addr.String() })
	return fields[*Interface]{
		"addresses.private-ip-address": addr,
		"attachment.attachment-id":     attached(func(a attachmentItem) string { return a.ID }),
		"attachment.device-index":      attached(func(a attachmentItem) string { return strconv.Itoa(a.Index) }),
		"attachment.instance-id":       attached(func(a attachmentItem) string { return a.Instance }),
		"attachment.status":            attached(func(a attachmentItem) string { return a.Status }),
		"availability-zone":            one(func(n *Interface) string { return n.Subnet.Zone }),
		"mac-address":                  one(func(n *Interface) string { return n.MAC.String() }),
		"network-interface-id":         one((*Interface).id),
		"owner-id":                     one(func(*Interface) string { return accountID }),
		"private-dns-name":             one(c.dnsName),
		"private-ip-address":           addr,
		"source-dest-check":            one(func(n *Interface) string { return strconv.FormatBool(n.check.at(c.visible())) }),
		"status":                       one(func(n *Interface) string { return c.interfaceItem(n).Status }),
		"subnet-id":                    one(func(n *Interface) string { return n.Subnet.ID }),
		"vpc-id":                       one(func(n *Interface) string { return n.Subnet.VPC.ID }),
	}
}

func (c *Cloud) apiDescribeInterfaces(form url.Values) (response, error) {
	s := selection[*Interface]{
		code: "InvalidNetworkInterfaceID", prefix: "eni", kind: "networkInterface", parameter: "NetworkInterfaceId",
		maxResults: 1000, fields: c.interfaceFields(),
	}
	interfaces, next, err := s.choose(c.interfaces.at(c.visible()), form)
	if err != nil {
		return nil, err
	}
	return &interfacesAnswer{Interfaces: each(interfaces, c.interfaceItem), NextToken: next}, nil
}

type instancesAnswer struct {
	head
	Reservations set[reservationItem] `xml:"reservationSet"`
	NextToken    string               `xml:"nextToken,omitempty"`
}

type reservationItem struct {
	ID        string            `xml:"reservationId"`
	Owner     string            `xml:"ownerId"`
	Groups    set[string]       `xml:"groupSet"`
	Instances set[instanceItem] `xml:"instancesSet"`
}

type instanceItem struct {
	ID           string             `xml:"instanceId"`
	Image        string             `xml:"imageId"`
	StateCode    int                `xml:"instanceState>code"`
	StateName    string             `xml:"instanceState>name"`
	DNS          string             `xml:"privateDnsName"`
	Type         string             `xml:"instanceType"`
	Launched     string             `xml:"launchTime"`
	Zone         string             `xml:"placement>availabilityZone"`
	Tenancy      string             `xml:"placement>tenancy"`
	Subnet       string             `xml:"subnetId,omitempty"`
	VPC          string             `xml:"vpcId,omitempty"`
	Addr         string             `xml:"privateIpAddress,omitempty"`
	Check        *bool              `xml:"sourceDestCheck"`
	Architecture string             `xml:"architecture"`
	Tags         set[string]        `xml:"tagSet"`
	Interfaces   set[interfaceItem] `xml:"networkInterfaceSet"`
	Tokens       string             `xml:"metadataOptions>httpTokens"`
	HopLimit     int                `xml:"metadataOptions>httpPutResponseHopLimit"`
	Endpoint     string             `xml:"metadataOptions>httpEndpoint"`
}

func (c *Cloud) instanceItem(i *Instance) instanceItem {
	state, nics := i.state.at(c.visible()), i.interfaces.at(c.visible())
	item := instanceItem{
		ID: i.ID, Image: imageID, StateCode: stateCodes[state], StateName: state, Type: instanceType,
		Launched: formatTime(i.launched), Zone: i.subnet.Zone, Tenancy: "default", Architecture: architecture,
		Tokens: "optional", HopLimit: i.metadata.hopLimit(), Endpoint: "enabled",
	}
	if i.metadata.TokensRequired {
		item.Tokens = "required"
	}
	if i.metadata.Disabled {
		item.Endpoint = "disabled"
	}
	if state == terminated {
		return item
	}
	first := nics[0]
	item.DNS, item.Addr = c.dnsName(first), first.Addr.String()
	item.Subnet, item.VPC = i.subnet.ID, i.subnet.VPC.ID
	if len(nics) == 1 { // EC2 says null if there are several
		check := first.check.at(c.visible())
		item.Check = &check
	}
	item.Interfaces = each(nics, func(n *Interface) interfaceItem {
		part := c.interfaceItem(n)
		part.Zone, part.Tags = "", nil
		part.Attachment.Instance, part.Attachment.InstanceOwner = "", ""
		return part
	})
	return item
}

func (c *Cloud) instanceFields() fields[*Instance] {
	f := fields[*Instance]{
		"availability-zone":   one(func(i *Instance) string { return i.subnet.Zone }),
		"instance-id":         one((*Instance).id),
		"instance-state-code": one(func(i *Instance) string { return strconv.Itoa(c.instanceItem(i).StateCode) }),
		"instance-state-name": one(func(i *Instance) string { return c.instanceItem(i).StateName }),
		"owner-id":            one(func(*Instance) string { return accountID }),
		"private-dns-name":    one(func(i *Instance) string { return c.instanceItem(i).DNS }),
		"private-ip-address":  one(func(i *Instance) string { return c.instanceItem(i).Addr }),
		"reservation-id":      one(func(i *Instance) string { return i.reservation }),
		"subnet-id":           one(func(i *Instance) string { return c.instanceItem(i).Subnet }),
		"vpc-id":              one(func(i *Instance) string { return c.instanceItem(i).VPC }),
	}
	for name, field := range c.interfaceFields() {
		f["network-interface."+name] = func(i *Instance) (values []string) {
			for _, n := range i.interfaces.at(c.visible()) {
				values = append(values, field(n)...)
			}
			return values
		}
	}
	return f
}

func (c *Cloud) apiDescribeInstances(form url.Values) (response, error) {
	s := selection[*Instance]{
		code: "InvalidInstanceID", prefix: "i", kind: "instance", parameter: "InstanceId",
		maxResults: 1000, fields: c.instanceFields(),
	}
	instances, next, err := s.choose(c.instances.at(c.visible()), form)
	if err != nil {
		return nil, err
	}
	return &instancesAnswer{NextToken: next, Reservations: each(instances, func(i *Instance) reservationItem {
		return reservationItem{
			ID: i.reservation, Owner: accountID, Instances: set[instanceItem]{[]instanceItem{c.instanceItem(i)}},
		}
	})}, nil
}
