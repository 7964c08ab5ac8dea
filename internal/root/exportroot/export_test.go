package exportroot

// Unexported names that the tests of this package use.

var (
	OpenExport   = openExport
	OpenFolderAs = openFolderAs
)
