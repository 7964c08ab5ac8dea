// Package compare looks at the repository on this machine (Host) and at its clone
// in a guest (Guest), and says how they stand to each other: what is new, what a
// push sets, who is ahead.
//
// What a guest said is hearsay: names are checked when they are read, and what
// it merely claims to have is believed only where this machine saw it before.
// It changes nothing.
package compare
