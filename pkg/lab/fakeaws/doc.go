// Package fakeaws is a small cloud for tests: the part of EC2 that has to do
// with route tables, and the instance metadata service (IMDS), spoken to over
// HTTP by any client, with real sockets or without, on the real clock or on
// another.
//
// Faithful is what a program that keeps routes can notice: the query protocol
// of version 2016-11-15 with its element names, error codes and texts;
// Signature Version 4 with the region, the date, session tokens and their
// expiry; pages and filters; the rules for routes (limits, duplicates, the
// local route, routes that come by themselves, targets, destinations within the
// VPC, the state blackhole); buckets that throttle, denied permissions, answers
// that lag behind the writes or are lost; IMDSv1 and v2 with hop limits and
// rotated credentials. A Router puts the route tables and source/destination checks
// into the kernel of a namespace, so that packets go as they would in a VPC.
//
// Simplified are all other things. There is one account and one region; a VPC has one network
// of each family, and an interface one address, which do not lag. A route leads to a
// network interface, an instance or a gateway, behind which there is nothing; one of
// IPv6 to an interface with an IPv6 address, and what refuses others is said as of IPv4. The
// target of a local route cannot be changed. Instances change their states at once.
// Subnets, tables and instances are made by Go calls, not by the API, and have no
// tags; subnets and tables do not lag. Actions of a class share one bucket, and
// permissions are denied to everybody alike. Filters that EC2 has and that are not
// here are refused as EC2 refuses unknown ones. The Router has no security groups,
// has a change of a route in force at once, and takes all packets by the route
// tables: in EC2 a host may send to another one in its subnet without.
package fakeaws
