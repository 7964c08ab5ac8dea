package ui

// AddFlag puts a flag into a command line for a person to type: at its end, or
// before the "--" behind which everything belongs to another program. line is
// shell-quoted.
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
