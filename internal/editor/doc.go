// Package editor finds editors that can open a folder on an SSH host, and starts them on a folder of
// a guest.
//
// It contains the table of editors, the search for their launchers, the cleaned environment they are
// started with, and the instructions (Recipe) printed if none can be started. It never changes SSH
// configuration, editor settings or the guest, and installs nothing.
//
// Invariants: finding an editor starts no program and writes nothing; a folder is always passed so
// that the editor treats it as a folder; an alias or path that an editor would parse differently is
// refused.
//
// # Launchers that cannot be used
//
// In a terminal of a remote window (SSH, container, tunnel) "code" is a small program that talks to
// the window on the other machine, where aivm's aliases do not exist. RemoteSession detects that,
// and Lookup skips launchers in a remote-cli directory.
//
// In WSL "code" on the PATH is usually the one of Windows. It runs Windows' ssh with Windows'
// ~/.ssh/config, where aivm's alias does not exist, so Lookup skips launchers below /mnt/ in WSL and
// says so in the NotFoundError. An editor installed inside WSL works as on any Linux.
//
// A flatpak has its own ssh in its sandbox. It works if the sandbox may read the home directory
// (Visual Studio Code's and VSCodium's may), so flatpaks are searched last. "flatpak run" stays in
// the foreground while the window is open; Open does not wait that long.
//
// Snaps of editors use classic confinement: they can access the host like any program. But a
// terminal inside a snap passes the snap's library paths on to the programs it starts; Environ
// removes them.
package editor
