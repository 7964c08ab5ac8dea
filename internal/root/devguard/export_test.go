package devguard

// Unexported names that the tests of this package use.

const OwnCgroup = ownCgroup

var (
	CgroupMount    = cgroupMount
	CgroupOf       = cgroupOf
	DenyDevices    = denyDevices
	DevicePolicies = devicePolicies
	GuardDevices   = guardDevices
	HasMknod       = hasMknod
	MachineCgroup  = machineCgroup
)
