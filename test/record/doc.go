// Package record holds what the program plans and does, as golden files: each
// case is a state of a made-up machine and a command line, and its file under
// testdata/golden has everything that came of it.
//
// The program is driven from outside, through cmd.Run with provision.Seams.
// What it meets there is made of recorded facts: a Debian 12 with files and
// programs (machine_test.go), a libvirtd that speaks the RPC wire and keeps
// domains, networks, pools and volumes in memory (libvirtd_test.go and beside),
// a privileged helper that writes down its records and changes the facts as
// root would (root_test.go), and guests whose user really runs what he is asked
// to in a directory of this machine, while what their root is asked to run is
// written down and believed done (guest_test.go). Nothing boots, nothing needs
// root or a network.
//
// A golden file has these sections, each only if there is something to say:
// the command line and its exit status, stdout, stderr, the plan (what
// --dry-run --json says right before), the privileged records with the rules
// they load, what libvirt was asked for (definitions included), what the guest
// was asked for (scripts, standard input, archives), what was started in it
// beside that, programs that were started, and every file below the person's
// home that was made, changed or removed: the store, ssh's files, the state of
// the VM. A text of more than thirty lines has a file of its own, named by its
// digest. What differs at each run (keys, identities, inodes, times) is numbered.
//
// To add a state, write a function func(*world) in states_test.go that changes
// the world, mostly by running commands in it (world.run) or by changing the
// facts, and a row in one of the tables of cases. Then
//
//	go test ./test/record -update
//
// writes the files, and git shows what became of them. A row whose file is
// missing fails, and so does a file without a row.
package record
