package nftload

// Unexported names that the tests of this package use.

var LoadScript = loadScript
