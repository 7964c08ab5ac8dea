package root

var testBuilders map[string]BuildFunc

func fakeDaemon() int { return 0 }
func clientRole() int { return 0 }
