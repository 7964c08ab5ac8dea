// Package hostgit runs the host's git program in a repository without starting programs that the
// repository's configuration, or a guest through a commit, chose.
//
// A repository is found by reading files only (Find). Before git runs in it, every path that git
// reads there is compared with the folders guests can write (Guarded), and so is every file that
// its configuration comes from (settings.go, trust.go). Hooks, file system monitors and filters are
// switched off on the command line (run.go, filters.go). The files of a commit that git would obey
// are listed (obeyed.go).
//
// The package knows nothing of clones in guests. It writes to a repository only what its callers'
// arguments make git write.
package hostgit
