package exportroot

// What the tests of this package look at beside what others use.

var (
	OpenExport   = openExport
	OpenFolderAs = openFolderAs
)
