// Package remoteconfig puts the section of one remote into the configuration of a
// repository, and takes it out again to the byte.
//
// It writes under the lock that git itself takes. A section that somebody
// changed stays, and so does every byte outside of it.
package remoteconfig
