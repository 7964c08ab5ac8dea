// Package compare reads the state of the repository on the host (Host) and of its clone in a guest
// (Guest), and compares them: which branches moved, what a push sets, who is ahead.
//
// The guest's answers are not trusted: names are checked when they are parsed, and an object the
// guest claims to have counts only if the host has seen it there before. The package changes
// nothing.
package compare
