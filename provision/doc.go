// Package provision brings a VM and its folders to the wanted state: it is the
// composer of the one loop (observe, plan, consent, apply) for every verb.
//
// It owns the order of things, the state file of each VM (instance.json), the
// summary and what is said when something fails. The rooms below it
// (host, image, network, domain, share) and cloudinit and sshcfg own their
// facts and actions; provision joins them and never reaches around them.
//
// Invariants: observing changes nothing and needs no privilege; nothing runs
// that was not in a plan; the warm path is one SSH connection, no process, not
// one byte written.
package provision
