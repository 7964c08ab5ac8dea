// Package upgrade proves that what an older aivm wrote is read and brought
// forward by this one: the store, the state directory, ssh's files, manifests,
// the cache's index, and what was defined in a real libvirt. The older programs
// are built from the commits that wrote them.
//
// It owns VMs, networks and directories named "e2e-up..." and removes them. No
// guest boots: the disk is a stump. It needs root, as test/e2e does, and runs
// with that suite, since it puts another aivm behind libvirt's hooks.
package upgrade
