// Package guestscript has the scripts that the guest user runs in a clone.
//
// They are for a POSIX sh; $1 is the clone's directory. Exit statuses from 100 on are answers,
// others are failures. The scripts bound their output, and the host treats it as untrusted.
package guestscript
