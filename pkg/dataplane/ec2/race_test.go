//go:build race

package ec2_test

const raceEnabled = true
