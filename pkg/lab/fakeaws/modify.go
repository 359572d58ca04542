package fakeaws

import (
	"net/url"
	"strings"

	"flanneld/pkg/ip"
)

type returnAnswer struct {
	head
	Return bool `xml:"return"`
}

func done(err error) (response, error) {
	if err != nil {
		return nil, err
	}
	return &returnAnswer{Return: true}, nil
}

func (c *Cloud) apiCreateRoute(form url.Values) (response, error) {
	return c.targetAction(form, (*RouteTable).createRoute)
}

func (c *Cloud) apiReplaceRoute(form url.Values) (response, error) {
	return c.targetAction(form, (*RouteTable).replaceRoute)
}

func (c *Cloud) apiDeleteRoute(form url.Values) (response, error) {
	return c.routeAction(form, (*RouteTable).deleteRoute)
}

// routeAction reads the table and the destination of a request.
func (c *Cloud) routeAction(form url.Values, do func(*RouteTable, string) error) (response, error) {
	if err := require(form, "RouteTableId"); err != nil {
		return nil, err
	}
	f, err := destinationFamily(form)
	if err != nil {
		return nil, err
	}
	t, err := c.routeTable(form.Get("RouteTableId"))
	if err != nil {
		return nil, err
	}
	dst := form.Get(destinations[f].parameter)
	if err := inFamily(f, dst); err != nil {
		return nil, err
	}
	return done(do(t, dst))
}

// destinationFamily is that of the one destination that a request must have.
func destinationFamily(form url.Values) (ip.Family, error) {
	if form.Has("DestinationPrefixListId") {
		return 0, errorf("UnsupportedOperation", "This cloud has no routes to prefix lists that somebody makes.")
	}
	four, six := form.Has(destinations[ip.V4].parameter), form.Has(destinations[ip.V6].parameter)
	switch {
	case four && six:
		return 0, errorf("InvalidParameterCombination", "The parameters destinationCidrBlock, destinationIpv6CidrBlock may not be used together.")
	case six:
		return ip.V6, nil
	default:
		return ip.V4, require(form, destinations[ip.V4].parameter)
	}
}

// targetAction reads the target of a request as well.
func (c *Cloud) targetAction(form url.Values, do func(*RouteTable, string, target) error) (response, error) {
	return c.routeAction(form, func(t *RouteTable, dst string) error {
		to, err := routeTarget(form)
		if err != nil {
			return err
		}
		return do(t, dst, to)
	})
}

// routeTarget reads the one target that a route must have.
func routeTarget(form url.Values) (target, error) {
	var given []string
	for _, name := range []string{
		"GatewayId", "NetworkInterfaceId", "InstanceId", "NatGatewayId", "VpcPeeringConnectionId", "TransitGatewayId",
		"EgressOnlyInternetGatewayId", "LocalGatewayId", "CarrierGatewayId", "VpcEndpointId", "CoreNetworkArn", "LocalTarget",
	} {
		if form.Has(name) {
			given = append(given, name)
		}
	}
	switch len(given) {
	case 0:
		return target{}, errorf("MissingParameter", "The request must contain exactly one of gatewayId, natGatewayId, "+
			"networkInterfaceId, vpcPeeringConnectionId, egressOnlyInternetGatewayId, transitGatewayId, localGatewayId, "+
			"carrierGatewayId, vpcEndpointId, coreNetworkArn, instanceId")
	case 1:
	default:
		return target{}, errorf("InvalidParameterCombination",
			"The parameters %s may not be used together.", strings.Join(given, ", "))
	}
	to := target{gateway: form.Get("GatewayId"), nic: form.Get("NetworkInterfaceId"), instance: form.Get("InstanceId")}
	if to == (target{}) {
		return to, errorf("UnsupportedOperation", "This cloud has no routes to what %s names.", given[0])
	}
	return to, nil
}

func require(form url.Values, parameter string) error {
	if form.Get(parameter) == "" {
		return errorf("MissingParameter", "The request must contain the parameter %s", lowerFirst(parameter))
	}
	return nil
}

func lowerFirst(s string) string { return strings.ToLower(s[:1]) + s[1:] }

func (c *Cloud) apiModifyInterface(form url.Values) (response, error) {
	if err := require(form, "NetworkInterfaceId"); err != nil {
		return nil, err
	}
	n, err := c.nic(form.Get("NetworkInterfaceId"))
	if err != nil {
		return nil, err
	}
	return done(c.setCheck(n, form.Get("SourceDestCheck.Value")))
}

func (c *Cloud) apiModifyInstance(form url.Values) (response, error) {
	if err := require(form, "InstanceId"); err != nil {
		return nil, err
	}
	i, err := c.instance(form.Get("InstanceId"))
	if err != nil {
		return nil, err
	}
	n, err := i.onlyInterface()
	if err != nil {
		return nil, err
	}
	value := form.Get("SourceDestCheck.Value")
	if form.Get("Attribute") == "sourceDestCheck" {
		value = form.Get("Value")
	}
	return done(c.setCheck(n, value))
}

// setCheck sets the only attribute that can be changed here.
func (c *Cloud) setCheck(n *Interface, value string) error {
	switch value {
	case "true", "false":
		n.check.set(c.clock(), value == "true")
		return nil
	case "":
		return errorf("InvalidParameterCombination", "No attributes specified.")
	default:
		return errorf("InvalidParameterValue", "Value (%s) for parameter sourceDestCheck is invalid. Invalid value", value)
	}
}

type interfaceAttributeAnswer struct {
	head
	Interface   string          `xml:"networkInterfaceId"`
	Check       *bool           `xml:"sourceDestCheck>value"`
	Attachment  *attachmentItem `xml:"attachment"`
	Description *string         `xml:"description>value"`
	Groups      *set[string]    `xml:"groupSet"`
}

func (c *Cloud) apiDescribeInterfaceAttribute(form url.Values) (response, error) {
	for _, parameter := range []string{"NetworkInterfaceId", "Attribute"} {
		if err := require(form, parameter); err != nil {
			return nil, err
		}
	}
	n, err := c.nic(form.Get("NetworkInterfaceId"))
	if err != nil {
		return nil, err
	}
	item := c.interfaceItem(n)
	answer := &interfaceAttributeAnswer{Interface: n.ID}
	switch form.Get("Attribute") {
	case "sourceDestCheck":
		answer.Check = &item.Check
	case "attachment":
		answer.Attachment = item.Attachment
	case "description":
		answer.Description = new(string)
	case "groupSet":
		answer.Groups = &item.Groups
	default:
		return nil, errorf("InvalidParameterValue", "Value (%s) for parameter attribute is invalid. Unknown network interface attribute",
			form.Get("Attribute"))
	}
	return answer, nil
}
