// Package oneshot tests aivm run on real one-shot VMs, as a user without privileges.
//
// It needs QEMU and runs only with AIVM_ONESHOT=1. AIVM_ONESHOT_IMAGE is a disk image from which a
// template is made; AIVM_ONESHOT_DIR keeps the template and the program for the next time. Started as
// root, the tests run aivm as the user 4416, who has no other rights.
package oneshot
