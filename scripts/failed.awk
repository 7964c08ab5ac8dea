# Reads the output of `go test -v` and prints what each failed test printed, at
# most its last 40 lines. Omits passed tests, and tests that failed only because
# of their subtests.
/^=== (RUN|NAME|CONT|PAUSE) / { now = $3; next }
/^ *--- (PASS|FAIL|SKIP): / {
	if ($2 == "FAIL:") failed[++n] = $3
	now = ""
	next
}
/^(panic|fatal error): / { crash = 40 }
crash > 0 { print; crash-- }
now != "" { output[now] = output[now] $0 "\n" }
END {
	for (i = 1; i <= n; i++)
		for (p = failed[i]; sub("/[^/]*$", "", p);)
			above[p] = 1
	for (k = 1; k <= n; k++) {
		name = failed[k]
		if ((name in above) && output[name] == "") continue
		count = split(output[name], line, "\n")
		print "== failed: " name
		for (i = count > 41 ? count - 40 : 1; i < count; i++) print line[i]
	}
}
