package host

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// realRules runs a script with the real nft and iptables in a network namespace, and parses the
// resulting rules.
func realRules(t *testing.T, script string) ruleset {
	t.Helper()
	argv := []string{"unshare", "-n", "sh", "-c", "set -e\n" + script + "\nexec nft -j list ruleset"}
	if os.Geteuid() != 0 {
		argv = append([]string{"sudo", "-n", "--"}, argv...)
	}
	var errs strings.Builder
	c := exec.Command(argv[0], argv[1:]...)
	c.Env = append(os.Environ(), "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
	c.Stderr = &errs
	out, err := c.Output()
	if err != nil {
		t.Fatalf("this test needs nft, iptables and root: %v\n%s", err, errs.String())
	}
	r, err := parseRuleset(out)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// The rules of Docker, ufw and libvirt, as the real programs print them.
func TestRealRulesets(t *testing.T) {
	const docker = `
iptables -P FORWARD DROP
iptables -N DOCKER-USER
iptables -A FORWARD -j DOCKER-USER
iptables -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
`
	const libvirt = `
iptables -N LIBVIRT_FWO
iptables -I FORWARD -j LIBVIRT_FWO
iptables -A LIBVIRT_FWO -s 10.77.0.0/24 -i virbr-aivm -j ACCEPT
`
	const libvirtNft = `
nft 'table ip libvirt_network { chain forward { type filter hook forward priority 0; policy accept; iif "lo" drop; iifname "virbr-aivm" accept; }; }'
`
	const ufw = `
iptables -P INPUT DROP
iptables -N ufw-before-input
iptables -A INPUT -j ufw-before-input
iptables -A ufw-before-input -i lo -j ACCEPT
`
	for _, tt := range []struct{ name, script, owners string }{
		{"nothing", "", ""},
		{"Docker", docker, "Docker"},
		{"Docker, libvirt by iptables", docker + libvirt, ""},
		{"Docker, libvirt by nftables", docker + libvirtNft, "Docker"},
		{"Docker, with the user's rule", docker + "iptables -I DOCKER-USER -i virbr-aivm -j ACCEPT\n", ""},
		{"all of libvirt's bridges", docker + "iptables -I FORWARD -i virbr+ -j ACCEPT\n", ""},
		{"ufw", ufw, "ufw"},
		{"ufw, with the user's rule", ufw + "iptables -N ufw-user-input\niptables -A INPUT -j ufw-user-input\niptables -A ufw-user-input -i virbr-aivm -p udp --dport 67 -j ACCEPT\n", ""},
		{"the user's table", `nft 'table inet mine { chain f { type filter hook forward priority 10; policy drop; iifname "eth0" accept; }; }'`, "table inet mine"},
		{"aivm's table", `nft 'table inet aivm_x { chain f { type filter hook forward priority 10; policy drop; }; }'`, ""},
	} {
		r := realRules(t, tt.script)
		var owners []string
		for _, c := range r.blocked("virbr-aivm") {
			owners = append(owners, r.owner(c))
		}
		if got := strings.Join(owners, ","); got != tt.owners {
			t.Errorf("%s: %q, want %q\n%+v", tt.name, got, tt.owners, r)
		}
	}
}
