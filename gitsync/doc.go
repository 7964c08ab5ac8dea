// Package gitsync will own mode git: a clone in the guest kept in step by push
// and fetch over the connection aivm already has. It is not built yet: the
// mode is parsed and refused with a sentence that says so.
package gitsync
