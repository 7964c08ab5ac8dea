// Package cloudinit turns what is known about a guest into the three files
// cloud-init reads on its first boot, and into the small disk that carries
// them; it also knows how to ask a guest whether that boot is over and how to
// switch cloud-init off afterwards.
//
// It owns the bytes of user-data, meta-data, network-config and of the seed
// disk, and two shell scripts for the guest. It never talks to a guest, never
// writes a file and never makes keys: private key material goes in and comes
// out in memory only.
//
// Invariants: the same Guest always gives the same bytes; every string
// reaches cloud-init exactly as it was given or is refused; nothing in the
// seed installs a package or waits for the internet.
//
// What the seed sets, and why it is so little: sshd is ordered after
// cloud-init's network stage, so each module that runs there is time before
// the first login. The module lists are therefore given whole. Before sshd:
// files, host name, user, keys. After it: the partition and file system grow.
// Packages, locale, mounts and mirrors stay as the image has them. Password
// logins are closed by a file that sshd reads at its first start, because
// cloud-init's own way restarts sshd under the first login on Debian 12.
//
// datasource_list is not here: user-data is read after the data source was
// found. It belongs into an image we build (/etc/cloud/cloud.cfg.d), and
// everywhere else ds-identify settles on NoCloud by the label of the disk.
package cloudinit
