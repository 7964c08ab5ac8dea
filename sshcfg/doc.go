// Package sshcfg makes "ssh ALIAS" work with the plain OpenSSH client, and
// with whatever is built on it: scp, rsync, git, editors.
//
// It owns one directory with one 0600 file per VM (Layout.ConfigDir), one
// Include line in the user's SSH configuration between two markers that name
// this directory, aivm's own client key, and per VM the pinned host key and its known_hosts file
// (Layout.StateDir). It never connects to a guest, never reads or changes the
// user's known_hosts, and never writes a private key it did not make.
//
// Invariants:
//
//   - Each store, which is a ConfigDir, has its own Include line and changes no
//     other store's. Markers of earlier versions name no directory: the Include
//     between them says whose they are.
//   - Outside our markers no byte of the user's configuration changes. The
//     file keeps its mode, owner, line ends, byte order mark and the symlinks
//     that lead to it, and its first version is kept in StateDir.
//   - A key file is made once and never replaced.
//   - Every value that reaches a stanza was checked for what ssh would expand
//     or split; a value that cannot be written so that every ssh reads the same
//     is refused.
//   - Host keys are always checked, against a file of ours that holds exactly
//     one key.
//   - All paths come from a Layout, so that nothing depends on the process's
//     environment but DefaultLayout's arguments and SSHHome.
//
// # Which home
//
// OpenSSH reads the configuration below the home directory of the password
// database, not below $HOME, while a "~" inside an Include line follows $HOME
// (checked with OpenSSH 9.2). Two things follow: callers build the Layout with
// SSHHome, and the Include line holds an absolute path, which means the same
// under sudo, in a container, or in a test with another HOME. XDG directories
// follow $HOME as their specification says.
//
// # A configuration that cannot be edited
//
// Where ~/.ssh/config is generated (nix, home-manager, a dotfile repository
// mounted read-only) the environment variable AIVM_SSH_CONFIG names another
// file to hold the Include line; then ssh has to be called with "-F FILE"
// (Layout.SSHArgs), and editors have to be told the same. Or the Include line
// is written by hand, anywhere before the first other directive: it is
// recognised without markers and left alone.
//
// What replacing a file by rename cannot keep: access control lists, extended
// attributes and further hard links of the user's configuration.
package sshcfg
