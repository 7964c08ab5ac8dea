// Package config owns the one TOML store: defaults, VMs, networks and
// attachments, and the rule by which a folder finds its VM.
//
// It never talks to libvirt, ssh or a guest, never decides what a VM should
// be, and never keeps what is merely true (addresses, MACs, uuids): that is
// read from libvirt and from the state directory.
//
// Invariants:
//
//   - Reading creates nothing, not even a directory.
//   - Writing changes only the bytes of the keys and records that changed.
//     Comments, order, unknown keys, line ends, a byte order mark and a missing
//     final newline stay as they are. What is about to be written is read back
//     first, and refused if it does not say what was meant.
//   - A write holds a lock beside the file, replaces the file in one rename and
//     keeps the version before as NAME.prev. Killed at any point, the store is
//     the old or the new one, whole.
//   - Values that reach XML, nft, ssh or a path are checked here, when they are
//     read, and named by key, line and column.
//   - A store with a higher schema_version is read as well as it can be and
//     never written.
//
// The keys are those of aivm 0.3 (schema 5) and a few optional ones more. The
// struct tags of Config are the schema: decoding, editing, unknown keys and
// checks all follow them.
package config
