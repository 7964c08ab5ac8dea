// Package host reads the facts about the host: which tools, daemons, virtualisation, memory and
// disk it has, what is missing for running VMs, and how large a VM may be.
//
// It reads small files, checks paths and opens two sockets; only Examine, which only the doctor
// calls, starts programs. It never changes anything: packages and daemons are planned as records
// for internal/root. Decisions (Plan, Accel, Choose, Doctor) are pure functions of Facts.
//
// Invariants: what could not be read is kept as an error, never taken for "missing"; a chosen size
// never exceeds what the host has; a size the host cannot provide is refused before anything is
// created.
package host
