// Package remoteconfig adds the section of one remote to a repository's configuration, and removes
// it byte for byte.
//
// It writes under git's own lock file. It keeps a section that the user changed, and every byte
// outside the section.
package remoteconfig
