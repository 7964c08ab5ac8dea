// Package projectfile reads the files in a project that say what a one-shot VM for it needs. It is
// the one reader of ".aivm.toml"; internal/vmpi reads the files of vmpi through it.
//
// Such a file comes with the project: a stranger or a guest may have written it. It can therefore
// only ask for memory, CPUs and packages, within limits; every other key is ignored, and a remark
// names the key of the config of the user that would set it. A file that cannot be read, is no
// regular file, is a link or is too large is ignored as well, with a remark. So nothing in the file
// makes more reachable than the user's config allows, and nothing in it prevents a run.
package projectfile
