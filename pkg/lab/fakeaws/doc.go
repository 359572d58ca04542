// Package fakeaws is a small cloud for tests: the part of EC2 that has to do
// with route tables, and the instance metadata service (IMDS), spoken to over
// HTTP by any client, with real sockets or without, on the real clock or on
// another.
//
// Faithful is what a program that keeps routes can notice: the query protocol
// of version 2016-11-15 with its element names, error codes and texts;
// Signature Version 4 with the region, the date, session tokens and their
// expiry; pages and filters; the rules for routes (limits, duplicates, the
// local route, targets, destinations within the VPC, the state blackhole);
// buckets that throttle, denied permissions, and answers that lag behind the
// writes; IMDSv1 and v2 with hop limits and rotated credentials. A Router puts the
// route tables and source/destination checks into the kernel of a namespace,
// so that packets go as they would in a VPC.
//
// Simplified are all other things. There is IPv4 only, one account and one
// region. A route leads to a network interface, an instance or an internet
// gateway, behind which there is nothing. The target of a local route cannot be
// changed. Instances change their states at once. Subnets, tables and instances are
// made by Go calls, not by the API, and have no tags. Actions of a class share
// one bucket, and permissions are denied to everybody alike. Filters that EC2
// has and that are not here are refused as EC2 refuses unknown ones.
package fakeaws
