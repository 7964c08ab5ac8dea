// Package settingsync copies the user's settings, dotfiles and editor extensions into a guest: it
// reads them on the host, filters them, and determines what has to be sent given what the guest
// has.
//
// It owns the reading of files below the host home, the three-way merge of editor settings, the
// filter of git configurations, the manifest kept in the guest, and the archive that is sent. It
// never opens a connection, starts no program, and never writes on the host.
//
// Invariants:
//
//   - Nothing in which the search found a secret is sent, unless the user named the file.
//   - Nothing in the guest is lost: a file that is replaced and is not what aivm sent before is kept
//     beside the new one, and nothing is ever deleted.
//   - A symbolic link on the host is followed only where no guest could have created it.
//   - A git configuration that a guest can write causes no file outside its folder to be read.
//   - A host file that cannot be read is reported, and never counts as absent.
//   - A guest's answer is checked, and can only cause aivm to send the user's own files again.
//
// # One round
//
// Gather reads the host. Wanted.Probe is this package's part of the probe script that runs in the
// guest, and ParseGuest parses its output. NewRound compares the two and returns what has to be
// done, as data; Round.Archive is the stream that does it, unpacked and applied by Command in one
// process. A round with nothing to send is empty.
package settingsync
