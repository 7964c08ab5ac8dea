// Package image provides a VM's first disk: the names of images, the check of a file's format, the
// cache by digest, and the build of an image from the host's package mirror.
//
// It never touches libvirt or a VM: it returns a read-only file, its format and its size, and other
// packages upload it. Build runs as root, called by internal/root; everything else runs as the
// user.
//
// Invariants: a file in the cache is complete, read-only and named by its SHA-256; a format is read
// from the header, never guessed from a name; an image that refers to another file is refused; a
// build killed at any point leaves no mount, no loop device and no process behind.
package image
