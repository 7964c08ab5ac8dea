// Package writable checks whether a path on the host is in a folder that a guest can write: by its
// name, by each symbolic link on the path, by its inode, through another mount, or as a hard link.
//
// It reads names, links and the mount table, opens no file, and changes nothing. Callers treat what
// it cannot determine as writable.
package writable
