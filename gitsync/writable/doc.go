// Package writable tells whether a path of this machine lies where a guest can
// write: by its name, by every link on the way to it, by its inode, through
// another mount, or as the second name of a file.
//
// It reads names, links and the mount table, opens no file, and changes nothing.
// What cannot be told is said, and counts as writable to those who ask.
package writable
