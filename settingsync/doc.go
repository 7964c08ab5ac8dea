// Package settingsync will own the person's settings, dotfiles and extensions
// in the guest. It is not built yet: [sync] is read and kept by the store and
// nothing acts on it.
package settingsync
