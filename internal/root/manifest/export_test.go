package manifest

// Unexported names that the tests of this package use.

var ErrNewer = errNewer
