package hookinstall

// Unexported names that the tests of this package use.

var (
	Catches    = catches
	LoadedPath = loadedPath
	ReloadFile = reloadFile
	ScriptText = scriptText
)
