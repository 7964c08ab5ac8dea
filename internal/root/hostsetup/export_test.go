package hostsetup

// Unexported names that the tests of this package use.

const SystemdDir = systemdDir

type Daemon = daemon

var (
	LockHolder      = lockHolder
	MissingPackages = missingPackages
	OtherManagers   = otherManagers
)
