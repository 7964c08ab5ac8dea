// Package upgrade tests that this aivm reads and upgrades what an older aivm wrote: the config, the
// state directory, ssh's files, manifests, the cache's index, and definitions in a real libvirt.
// The older programs are built from the commits that wrote them.
//
// It owns VMs, networks and directories named "e2e-up..." and removes them. No guest boots: the
// disk is a placeholder. It needs root, as test/e2e does, and runs with that suite, since it
// installs another aivm for libvirt's hooks.
package upgrade
