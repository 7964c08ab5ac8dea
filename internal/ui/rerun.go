package ui

// AddFlag adds a flag to the shell-quoted command line: at its end, or before a "--",
// after which the arguments belong to another program.
func AddFlag(line, flag string) string {
	var quote byte
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '\'' || c == '"':
			quote = c
		case c == '-' && i > 0 && line[i-1] == ' ' && (line[i:] == "--" || len(line) > i+2 && line[i:i+3] == "-- "):
			return line[:i] + flag + " " + line[i:]
		}
	}
	return line + " " + flag
}
