// Package hostfile follows and opens paths of this machine on which a guest may
// have put something: a folder that is shared for writing can hold links, pipes
// and devices, and they can change at any moment.
//
// Follow tells every name a path leads through, so that a caller can say
// whether somebody who can write a Folder decides where the path ends. Open, At
// and Reopen work on descriptors: nothing is checked by its path and opened by
// its path afterwards. The package reads and never writes, and starts nothing.
package hostfile
