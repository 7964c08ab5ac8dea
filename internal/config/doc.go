// Package config reads and writes aivm's config file (TOML): defaults, VMs, networks and
// attachments. It also finds the VM that a folder belongs to.
//
// It never talks to libvirt, ssh or a guest, never chooses a VM's sizes or image, and never stores
// observed facts (addresses, MACs, uuids): those are read from libvirt and from the state
// directory. In code and comments the config file is called the store.
//
// Invariants:
//
//   - Reading creates nothing, not even a directory.
//   - Writing changes only the bytes of the keys and records that changed. Comments, order, unknown
//     keys, line ends, a byte order mark and a missing final newline stay as they are. The new
//     content is parsed before it is written, and refused if it does not decode to the intended
//     Config.
//   - A write holds a lock file beside the store, replaces the store in one rename and keeps the
//     previous version as NAME.prev. If the process is killed at any point, the file holds either
//     the complete old or the complete new version.
//   - Values that are used in XML, nft rules, ssh or a path are checked when the file is read;
//     errors name key, line and column.
//   - A store with a higher schema_version is read as far as possible and never written.
//
// The keys are those of aivm 0.3 (schema 5) plus a few optional ones. The struct tags of Config are
// the schema: decoding, editing, unknown keys and checks all follow them.
package config
