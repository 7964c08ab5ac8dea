// Package hostgit runs the git program of this machine in a repository, without
// starting what the repository, or a guest through a commit, would have it start.
//
// A repository is found by reading (Find). Before git runs in it, every place
// that git reads there is compared with what guests can write (Guarded), and so
// is every file that its configuration comes from (settings.go, trust.go).
// Hooks, monitors and filters are switched off on the command line (run.go,
// filters.go). What of a commit git would obey is listed (obeyed.go).
//
// It knows nothing of clones in guests. It writes to a repository only what the
// arguments of its callers do.
package hostgit
