package root

// What the tests of this package look at beside what others use.

type (
	Client    = client
	ErrorLine = errorLine
	Request   = request
)

var (
	EncodeOp    = encodeOp
	RemoteError = remoteError
	SudoCaller  = sudoCaller
	WireError   = wireError
)
