// Package hostfile resolves and opens paths of the host that may contain files created by a guest:
// a folder shared for writing can contain links, pipes and devices, and they can change at any time.
//
// Tracer.Follow returns every name a path goes through, so that a caller can tell whether a guest
// that can write a Folder controls where the path ends. Open, At and Reopen use file descriptors: no
// file is checked by its path and then opened by its path, so it cannot be replaced in between. Search
// lists the files of a folder within limits. The package only reads, and starts no program.
package hostfile
