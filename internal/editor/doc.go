// Package editor knows the editors that can open a folder on an SSH host, how
// each is found on this machine and how it is started on a folder of a guest.
//
// It owns the table of editors, the search for their launchers, the cleaned
// environment they are started with, and the recipe printed when none can be
// started. It never touches SSH configuration, editor settings or the guest,
// and installs nothing.
//
// Invariants: finding an editor starts no program and writes nothing; a folder
// is always passed so that the editor takes it for a folder; an alias or path
// that an editor would take apart differently is refused.
//
// # Where a launcher may be the wrong one
//
// Inside a terminal of a remote window (SSH, container, tunnel) "code" is a
// small program that talks to the window on the other machine, which knows
// nothing of our aliases. RemoteSession detects that, and Lookup passes over
// launchers in a remote-cli folder.
//
// In WSL "code" on the PATH usually is the one of Windows. It runs Windows'
// ssh with Windows' ~/.ssh/config, where our alias does not exist, so Lookup
// passes over launchers below /mnt/ there and says so in the NotFoundError.
// An editor installed inside WSL works as on any Linux.
//
// A flatpak has its own ssh in its sandbox. It works when the sandbox may see
// the home directory (Visual Studio Code's and VSCodium's may), so a flatpak
// is the last place looked at. "flatpak run" stays in the foreground for as
// long as the window is open; Open does not wait for it that long.
//
// A snap of an editor is classic: it sees the host as any program does. But a
// terminal inside it hands its own library paths on to whatever it starts;
// Environ undoes that.
package editor
