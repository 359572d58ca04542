package tun

// AttachTo is what Open does once it has found a device.
var AttachTo = attachTo
