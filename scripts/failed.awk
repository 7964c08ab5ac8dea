# Of what `go test -v` printed: what each failed test itself printed, at most
# its last 40 lines, and nothing of tests that passed. A test that only failed
# through its subtests is left to these.
/^=== (RUN|NAME|CONT|PAUSE) / { now = $3; next }
/^ *--- (PASS|FAIL|SKIP): / {
	if ($2 == "FAIL:") failed[++n] = $3
	now = ""
	next
}
/^(panic|fatal error): / { crash = 40 }
crash > 0 { print; crash-- }
now != "" { said[now] = said[now] $0 "\n" }
END {
	for (i = 1; i <= n; i++)
		for (p = failed[i]; sub("/[^/]*$", "", p);)
			above[p] = 1
	for (k = 1; k <= n; k++) {
		name = failed[k]
		if ((name in above) && said[name] == "") continue
		count = split(said[name], line, "\n")
		print "== failed: " name
		for (i = count > 41 ? count - 40 : 1; i < count; i++) print line[i]
	}
}
