// Package sshcfg makes "ssh ALIAS" work with the OpenSSH client and with the programs
// that use it: scp, rsync, git, editors.
//
// It writes a directory with one file of mode 0600 per VM (Layout.ConfigDir), one Include
// line in the user's SSH configuration between two markers that name this directory,
// aivm's client key, and for each VM the pinned host key and a known_hosts file
// (Layout.StateDir). It does not connect to guests, does not change the user's
// known_hosts (adopting a VM of aivm 0.3 reads it, see KnownKey), and writes no private key
// but those it makes.
//
// Invariants:
//
//   - A store is the set of files in one ConfigDir. Each store has its own Include line and
//     does not change those of other stores. The markers of earlier versions name no
//     directory; the Include between them tells to which store they belong.
//   - No byte of the user's configuration outside aivm's markers changes. The file keeps
//     its mode, owner, line endings, byte order mark and the symlinks that lead to it. Its
//     first version is saved in StateDir.
//   - A key file is written once and never replaced.
//   - Every value in a stanza is checked for characters that ssh expands or splits at. A
//     value that cannot be written such that all ssh releases read it the same way is
//     refused.
//   - Host keys are always checked, against a file of aivm that holds exactly one key.
//   - All paths come from a Layout, so that nothing depends on the environment except
//     through DefaultLayout's arguments and SSHHome.
//
// # Which home
//
// OpenSSH reads the configuration below the home directory of the password database, not
// below $HOME, but a "~" in an Include line means $HOME (checked with OpenSSH 9.2).
// Therefore callers build the Layout with SSHHome, and the Include line has an absolute
// path, which is the same under sudo, in a container, or in a test with another HOME. XDG
// directories are relative to $HOME, as their specification says.
//
// # A configuration that cannot be edited
//
// If ~/.ssh/config is generated (nix, home-manager, a dotfile repository mounted
// read-only), the environment variable AIVM_SSH_CONFIG can name another file for the
// Include line. ssh then has to be called with "-F FILE" (Layout.SSHArgs), and editors have
// to be configured the same way. Alternatively the user adds the Include line manually,
// anywhere before the first other directive; it is recognised without markers and not
// changed.
//
// The user's configuration is replaced by rename. Its extended attributes, which include
// access control lists, are copied (internal/fileattrs). A file with several hard links is
// refused, since the other names would keep the old content.
package sshcfg
