// Package cloudinit generates the three files that cloud-init reads at a guest's first boot,
// and the seed disk with these files. It also has the scripts that check in the guest
// whether the first boot is finished, switch cloud-init off after it, and prepare a guest
// as an image for other VMs.
//
// It generates user-data, meta-data, network-config, the seed disk and shell scripts for the
// guest. It does not connect to a guest, writes no file and makes no keys: private keys are
// only passed in and returned in memory.
//
// Invariants: the same Guest gives the same bytes; every string reaches cloud-init exactly
// as given, or is refused; nothing in the seed installs a package or needs the internet.
//
// The seed configures as little as possible. sshd starts after cloud-init's network stage,
// so every module in that stage delays the first login. Therefore the seed sets the
// complete module lists. Before sshd: files, host name, user, keys. After sshd: growing the
// partition and the file system. Packages, locale, mounts and mirrors stay as in the image.
// Password logins are disabled by a file that sshd reads at its first start, because
// cloud-init's own setting restarts sshd during the first login on Debian 12.
//
// The seed cannot set datasource_list: user-data is read after the data source was found.
// Images that aivm builds set it in /etc/cloud/cloud.cfg.d; on others, ds-identify finds
// NoCloud by the label of the disk.
package cloudinit
