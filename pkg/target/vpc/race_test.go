//go:build race

package vpc_test

const raceEnabled = true
