package hostsetup

// What the tests of this package look at beside what others use.

const SystemdDir = systemdDir

type Daemon = daemon

var (
	LockHolder      = lockHolder
	MissingPackages = missingPackages
	OtherManagers   = otherManagers
)
