//go:build !long

package upgrade

// longRun is true in `make test-long`, which builds and runs the first aivm too.
const longRun = false
