package manifest

// What the tests of this package look at beside what others use.

var ErrNewer = errNewer
