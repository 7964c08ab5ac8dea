package settingsync

import (
	"slices"
	"strings"

	"aivm.dev/aivm/internal/secretscan"
)

// gitSections are the sections that may be sent: git's own, and those of tools whose variables say how
// something looks or works. Any other section belongs to a tool that aivm does not know, and such
// tools keep tokens there ([azure] pat, [jira] key), so it is not sent. gitHostOnly excludes variables
// of these sections.
var gitSections = []string{
	// git, up to 2.54
	"add", "advice", "alias", "am", "apply", "attr", "author", "blame", "branch", "browser", "bundle", "checkout", "clean", "clone", "color", "column",
	"commit", "commitgraph", "committer", "completion", "core", "credential", "credentialcache", "credentialstore", "diff", "difftool", "extensions",
	"fastimport", "feature", "fetch", "filter", "format", "fsck", "fsmonitor", "gc", "gitcvs", "gitweb", "gpg", "grep", "gui", "guitool", "hash", "help",
	"http", "https", "i18n", "imap", "include", "includeif", "index", "init", "instaweb", "interactive", "log", "lsrefs", "mailinfo", "mailmap", "maintenance",
	"man", "merge", "mergetool", "notes", "pack", "pager", "pretty", "promisor", "protocol", "pull", "push", "rebase", "receive", "reftable", "remote", "remotes", "repack",
	"replay", "rerere", "revert", "safe", "sendemail", "sendpack", "sequence", "showbranch", "sparse", "splitindex", "ssh", "stash", "status", "submodule", "tag",
	"tar", "trace2", "trailer", "transfer", "uploadarchive", "uploadpack", "uploadpackfilter", "url", "user", "versionsort", "web", "worktree",
	// tools
	"absorb", "annex", "bash", "branchless", "cola", "delta", "diff-so-fancy", "forgit", "ghq", "git-town", "gitflow", "icdiff", "machete", "magit", "oh-my-zsh",
	"revise", "spice", "stgit", "tig",
}

// gitSectionKnown reports whether the section of a variable may be sent.
func gitSectionKnown(v gitVar) bool { return slices.Contains(gitSections, v.section) }

// gitSecret returns the kind of secret in a variable's name or value, "" if there is none.
func gitSecret(v gitVar) string {
	for _, word := range []string{"token", "password", "passwd", "secret", "apikey"} {
		if strings.Contains(v.key, word) && v.value != "" && v.section != "credential" {
			return "a value named " + v.key
		}
	}
	for _, s := range []string{v.value, v.sub, v.key + " = " + v.value} {
		if urlWithPassword(s) {
			continue // removed by keepGitVar without a report
		}
		if found := secretscan.Text(s); len(found) > 0 {
			return found[0].Kind
		}
	}
	return ""
}
