// Package record tests what aivm plans and does, with golden files. A case is a state of a simulated
// host and a command line; its file in testdata/golden has all results.
//
// The tests call cmd.Run with provision.Seams. The simulated host consists of recorded facts: files
// and programs of a Debian 12 (machine_test.go); a libvirtd that implements libvirt's RPC protocol and
// keeps domains, networks, pools and volumes in memory (libvirtd_test.go, domains_test.go,
// networks_test.go, pools_test.go, snapshots_test.go); a privileged helper that notes its records and
// changes the facts as root would (root_test.go); and guests (guest_test.go). Commands of a guest's
// user are executed in a directory of the real host; commands of its root are only noted and count as
// successful. No VM boots, and the tests need neither root nor a network.
//
// A golden file has these sections, if they are not empty:
//
//   - the plan, as --dry-run --json prints it before the command runs, and the files it changed;
//   - the command line and its exit status, stdout, stderr;
//   - the privileged records, with the rules they load;
//   - the calls of libvirt, with definitions;
//   - what was sent to the guest: scripts, standard input, archives;
//   - what was started in the guest concurrently;
//   - the programs started on the host;
//   - the files below the user's home that were created, changed or removed: the config, ssh's files,
//     the VM's state.
//
// A text of more than thirty lines has its own file, named by its digest. What differs in each run
// (keys, UUIDs, inodes, times) is replaced by a number or a placeholder.
//
// To add a case, write a function func(*world) in states_test.go that brings the world into the state,
// mostly by running commands (world.run) or by changing facts, and add a row to one of the tables of
// cases. Then run
//
//	go test ./test/record -update
//
// to write the golden files, and read git's diff of them. A row without a file fails, and so does a
// file without a row.
package record
