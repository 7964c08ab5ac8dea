// Package firewall will own the nftables rules that keep a guest away from
// this machine and its networks. It is not built yet: README says so, `status`
// shows it as skipped, and no other package may change nftables rules.
//
// Its place in the plan is after the network is started and before a guest is
// used: provision asks it for facts and actions there.
package firewall
