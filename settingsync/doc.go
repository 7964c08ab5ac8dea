// Package settingsync brings a person's settings, dotfiles and extensions into
// a guest: what is read here, how it is changed on the way, and what has to be
// sent given what the guest says it has.
//
// It owns the reading of files below the host home, the three-way merge of
// editor settings, the filter of git configurations, the search for secrets,
// the manifest kept in the guest and the one archive that is sent. It never
// opens a connection, starts no program, and never writes on the host.
//
// Invariants: nothing is sent that the search for secrets stopped, unless the
// person named the file; nothing in the guest is lost: a file that is replaced
// and is not what we sent before is kept beside it; nothing is ever deleted
// there; a link on the host is followed only where no guest could have planted
// it; a host file that cannot be read is reported, and never taken for absent;
// what a guest says is checked before it is believed, and can only make us
// send its own files again.
//
// # One round
//
// Gather reads the host. Wanted.Probe is the guest's piece of the one probe
// script, ParseGuest reads its answer. Make compares the two and returns what
// has to be done, as data; Round.Archive is the stream that does it, unpacked
// and applied by Command in one exec. A round without anything to send is empty.
package settingsync
