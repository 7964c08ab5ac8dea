// Package bootdisk takes the kernel and the modules of a guest out of a disk image
// and makes an initrd for it, as an ordinary user. It also makes the empty overlays
// that VMs write to.
//
// It reads images, and writes only below the directories and into the files that it
// is given. An image may come from a guest: an image that names other files of this
// machine is refused, and names, sizes and counts in it are bounded. Programs:
// qemu-img, debugfs, and xz or zstd where the guest's modules are compressed.
package bootdisk
