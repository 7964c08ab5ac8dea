package nftload

// What the tests of this package look at beside what others use.

var Load = load
