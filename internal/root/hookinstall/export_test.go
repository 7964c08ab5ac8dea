package hookinstall

// What the tests of this package look at beside what others use.

var (
	Catches    = catches
	HooksTold  = hooksTold
	Question   = question
	ScriptText = scriptText
)
