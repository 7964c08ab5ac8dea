// Package host owns what is known about this machine: which tools, daemons,
// virtualisation, memory and disk it has, what is missing for running VMs, and
// how large a VM may be here.
//
// It reads small files, looks at paths and opens two sockets; only Examine,
// which the doctor alone calls, starts a program. It never changes anything:
// packages and daemons are planned as records for internal/root. Decisions
// (Plan, Accel, Choose, Doctor) are pure functions of Facts.
//
// Invariants: what could not be read is kept as an error, never taken for
// "missing"; a chosen size never exceeds what the machine has; an impossible
// wish is refused before anything is made.
package host
