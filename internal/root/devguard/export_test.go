package devguard

// What the tests of this package look at beside what others use.

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
