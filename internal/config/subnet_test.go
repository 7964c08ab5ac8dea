package config

import (
	"context"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNetworkFollowsFromSubnet(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{`name = "lab"` + "\n" + `bridge = "virbr-lab"` + "\n" + `subnet_cidr = "10.5.6.0/24"`, "lab virbr-lab 10.5.6.0/24 10.5.6.1 10.5.6.100 10.5.6.200"},
		{`subnet_cidr = "10.5.6.7/24"`, "aivm-net virbr-aivm 10.5.6.7/24 10.5.6.1 10.5.6.100 10.5.6.200"},
		{`subnet_cidr = "10.5.0.0/16"`, "aivm-net virbr-aivm 10.5.0.0/16 10.5.0.1 10.5.0.100 10.5.0.200"},
		{`subnet_cidr = "10.5.6.128/25"`, "aivm-net virbr-aivm 10.5.6.128/25 10.5.6.129 10.5.6.224 10.5.6.254"},
		{`subnet_cidr = "10.5.6.16/28"`, "aivm-net virbr-aivm 10.5.6.16/28 10.5.6.17 10.5.6.28 10.5.6.30"},
		{`subnet_cidr = "10.5.6.0/29"`, "aivm-net virbr-aivm 10.5.6.0/29 10.5.6.1 10.5.6.6 10.5.6.6"},
		{`subnet_cidr = "10.5.6.0/29"` + "\n" + `gateway_ip = "10.5.6.6"`, "aivm-net virbr-aivm 10.5.6.0/29 10.5.6.6 10.5.6.5 10.5.6.5"},
		{`subnet_cidr = "10.5.6.0/24"` + "\n" + `gateway_ip = "10.5.6.254"`, "aivm-net virbr-aivm 10.5.6.0/24 10.5.6.254 10.5.6.100 10.5.6.200"},
		{`subnet_cidr = "10.5.6.0/24"` + "\n" + `gateway_ip = "10.5.6.120"`, "aivm-net virbr-aivm 10.5.6.0/24 10.5.6.120 10.5.6.121 10.5.6.200"},
		{`subnet_cidr = "10.5.6.0/24"` + "\n" + `gateway_ip = "10.5.6.190"`, "aivm-net virbr-aivm 10.5.6.0/24 10.5.6.190 10.5.6.100 10.5.6.189"},
		{`subnet_cidr = "10.5.6.0/24"` + "\n" + `dhcp_start = "10.5.6.220"`, "aivm-net virbr-aivm 10.5.6.0/24 10.5.6.1 10.5.6.220 10.5.6.254"},
		{`subnet_cidr = "10.5.6.0/24"` + "\n" + `dhcp_end = "10.5.6.50"`, "aivm-net virbr-aivm 10.5.6.0/24 10.5.6.1 10.5.6.50 10.5.6.50"},
		{`gateway_ip = ""` + "\n" + `subnet_cidr = "10.5.6.0/24"` + "\n" + `dhcp_end = ""`, "aivm-net virbr-aivm 10.5.6.0/24 10.5.6.1 10.5.6.100 10.5.6.200"},
		{`name = ""` + "\n" + `bridge = ""` + "\n" + `subnet_cidr = ""`, "aivm-net virbr-aivm 10.77.0.0/24 10.77.0.1 10.77.0.100 10.77.0.200"},
		{`name = "lab"`, "lab virbr-aivm 10.77.0.0/24 10.77.0.1 10.77.0.100 10.77.0.200"},
	} {
		for section, spec := range map[string]func(Config) NetworkSpec{
			"[defaults.network]": func(c Config) NetworkSpec { return c.Defaults.Network },
			"[[networks]]\nname = \"rec\"\n[networks.network]": func(c Config) NetworkSpec {
				return c.Networks[0].Network
			},
		} {
			path := write(t, section+"\n"+c.text+"\n")
			store := mustLoad(t, path)
			s := spec(store.Config)
			want := c.want
			if strings.Contains(section, "networks") {
				_, rest, _ := strings.Cut(want, " ")
				if want = "rec " + rest; strings.Contains(c.text, "lab") {
					want = "lab " + rest
				}
			}
			if got := strings.Join([]string{s.Name, s.Bridge, s.SubnetCIDR, s.GatewayIP, s.DHCPStart, s.DHCPEnd}, " "); got != want {
				t.Errorf("%s %s:\n got %s\nwant %s", section, c.text, got, want)
			}
			if key, problem := s.Misfit(); key != "" {
				t.Errorf("%s: %s %s", c.text, key, problem)
			}
			if key, problem := s.NoRoom(); key != "" {
				t.Errorf("%s: %s %s", c.text, key, problem)
			}
			// Another change leaves the section as it is, and reads the same again.
			before, _ := os.ReadFile(path)
			if err := Update(context.Background(), path, func(c *Config) error { c.ActiveVM = "x"; return nil }); err != nil {
				t.Errorf("%s: %v", c.text, err)
			}
			after, _ := os.ReadFile(path)
			if !strings.Contains(string(after), strings.TrimSpace(string(before))) {
				t.Errorf("%s: the section was changed:\n%s", c.text, after)
			}
			// Another subnet and its values can be stored.
			err := Update(context.Background(), path, func(c *Config) error {
				c.Defaults.Network = c.Defaults.Network.OnSubnet(netip.MustParsePrefix("10.9.0.0/28"))
				for i := range c.Networks {
					c.Networks[i].Network = c.Networks[i].Network.OnSubnet(netip.MustParsePrefix("10.9.0.0/28"))
				}
				return nil
			})
			if err != nil || spec(mustLoad(t, path).Config).GatewayIP != "10.9.0.1" {
				t.Errorf("%s: %v, %+v", c.text, err, spec(mustLoad(t, path).Config))
			}
		}
	}
}

func TestNetworkMisfits(t *testing.T) {
	for text, want := range map[string]string{
		`subnet_cidr = "10.5.6.0/30"`:                                                                          `2:15: defaults.network.subnet_cidr: must be from /8 to /29, so that there is room for VMs, not "10.5.6.0/30"`,
		`subnet_cidr = "0.0.0.0/0"`:                                                                            `2:15: defaults.network.subnet_cidr: must be from /8 to /29, so that there is room for VMs, not "0.0.0.0/0"`,
		`gateway_ip = "10.5.6.1"`:                                                                              `2:14: defaults.network.gateway_ip: must be an address of subnet_cidr "10.77.0.0/24", from 10.77.0.1 to 10.77.0.254, not "10.5.6.1"`,
		`subnet_cidr = "10.5.6.0/24"` + "\n" + `gateway_ip = "10.5.6.0"`:                                       `3:14: defaults.network.gateway_ip: must be an address of subnet_cidr "10.5.6.0/24", from 10.5.6.1 to 10.5.6.254, not "10.5.6.0"`,
		`subnet_cidr = "10.5.6.0/24"` + "\n" + `gateway_ip = "fd00::1"`:                                        `3:14: defaults.network.gateway_ip: must be an address of subnet_cidr "10.5.6.0/24", from 10.5.6.1 to 10.5.6.254, not "fd00::1"`,
		`dhcp_end = "10.77.0.255"`:                                                                             `2:12: defaults.network.dhcp_end: must be an address of subnet_cidr "10.77.0.0/24", from 10.77.0.1 to 10.77.0.254, not "10.77.0.255"`,
		`dhcp_start = "::ffff:10.77.0.5"`:                                                                      `2:14: defaults.network.dhcp_start: must be an address of subnet_cidr "10.77.0.0/24", from 10.77.0.1 to 10.77.0.254, not "::ffff:10.77.0.5"`,
		`dhcp_start = "10.77.0.90"` + "\n" + `dhcp_end = "10.77.0.80"`:                                         `3:12: defaults.network.dhcp_end: must not be below dhcp_start "10.77.0.90", and is "10.77.0.80"`,
		`gateway_ip = "10.77.0.90"` + "\n" + `dhcp_start = "10.77.0.80"`:                                       `2:14: defaults.network.gateway_ip: must not be in the DHCP range, from dhcp_start "10.77.0.80" to dhcp_end "10.77.0.200", and is "10.77.0.90"`,
		`dhcp_start = "10.77.0.2"` + "\n" + `dhcp_end = "10.77.0.254"`:                                         `2:14: defaults.network.dhcp_start: must leave an address of subnet_cidr "10.77.0.0/24" outside the DHCP range for each VM, and is "10.77.0.2", with dhcp_end "10.77.0.254"`,
		`subnet_cidr = "10.5.6.0/29"` + "\n" + `dhcp_start = "10.5.6.2"` + "\n" + `dhcp_end = "10.5.6.6"`:      `3:14: defaults.network.dhcp_start: must leave an address of subnet_cidr "10.5.6.0/29" outside the DHCP range for each VM, and is "10.5.6.2", with dhcp_end "10.5.6.6"`,
		`subnet_cidr = "10.0.0.0/8"` + "\n" + `dhcp_start = "10.0.0.2"` + "\n" + `dhcp_end = "10.255.255.254"`: `3:14: defaults.network.dhcp_start: must leave an address of subnet_cidr "10.0.0.0/8" outside the DHCP range for each VM, and is "10.0.0.2", with dhcp_end "10.255.255.254"`,
	} {
		path := write(t, "[defaults.network]\n"+text+"\n")
		_, err := Load(path)
		if err == nil || err.Error() != "invalid config: "+path+":"+want {
			t.Errorf("%s:\n got %v\nwant invalid config: %s:%s", text, err, path, want)
		}
		// The network of a record may exist and work: only a warning.
		path = write(t, "[[networks]]\nname = \"rec\"\n[networks.network]\n"+text+"\n")
		s := mustLoad(t, path)
		_, message, _ := strings.Cut(want, "defaults.network.")
		key, message, _ := strings.Cut(message, ": ")
		if strings.HasPrefix(message, "must leave") {
			if len(s.Warnings) > 0 {
				t.Errorf("%s: %v", text, s.Warnings)
			}
			continue
		}
		if len(s.Warnings) != 1 || s.Warnings[0].Message != key+` of network "rec" `+message || s.Warnings[0].Key != "networks[0].network."+key {
			t.Errorf("%s: %v", text, s.Warnings)
		}
		ps, err := Lint(path)
		if err != nil || len(ps) != 1 {
			t.Errorf("%s: %v, %v", text, ps, err)
		}
	}
}

// [sync] and [firewall] as aivm 0.3's manual prints them.
func TestBareSections(t *testing.T) {
	const manual = "# mine\n[sync]\nenabled = true\noverwrite = true\npaths = [\n  \"~/.gitconfig\", # keep\n]\n\n[firewall]\nallow_tcp_ports = [22, 5432]\n"
	path := write(t, manual)
	s := mustLoad(t, path)
	d := s.Config.Defaults
	if !d.Sync.Enabled || !cmp.Equal(d.Sync.Paths, []string{"~/.gitconfig"}) || !cmp.Equal(d.Firewall.AllowTCPPorts, []string{"22", "5432"}) || !d.Firewall.Enabled {
		t.Errorf("%+v %+v", d.Sync, d.Firewall)
	}
	if len(s.Warnings) != 2 || !s.Warnings[0].Used || !s.Warnings[1].Used || s.Warnings[1].Line != 9 {
		t.Errorf("%+v", s.Warnings)
	}
	if ps, err := Lint(path); err != nil || len(ps) > 0 {
		t.Errorf("%v %v", ps, err)
	}
	if vm := s.Config.NewVM("a", "n"); !vm.Sync.Enabled {
		t.Error("a new VM does not get it")
	}
	// Changes go to [defaults], which has priority, and leave the manual's lines as they are.
	err := Update(context.Background(), path, func(c *Config) error {
		c.Defaults.Sync.Enabled = false
		c.Defaults.Sync.Paths = append(c.Defaults.Sync.Paths, "~/.tmux.conf")
		return nil
	})
	raw, _ := os.ReadFile(path)
	d = mustLoad(t, path).Config.Defaults
	if err != nil || d.Sync.Enabled || len(d.Sync.Paths) != 2 || !strings.HasPrefix(string(raw), manual) {
		t.Errorf("%v %+v\n%s", err, d.Sync, raw)
	}
	// Both: the proper one has priority wherever it is, and the other is named.
	s = mustLoad(t, write(t, "[defaults.sync]\nenabled = false\n[sync]\nenabled = true\noverwrite = false\n"))
	if d := s.Config.Defaults.Sync; d.Enabled || d.Overwrite {
		t.Errorf("%+v", d)
	}
	if len(s.Warnings) != 1 || !strings.Contains(s.Warnings[0].Message, "its enabled is ignored, since [defaults.sync] has that too") {
		t.Errorf("%+v", s.Warnings)
	}
	// Wrong keys and values are found as in every section.
	if _, err := Load(write(t, "[sync]\nenabled = 3\n")); err == nil || !strings.Contains(err.Error(), "2:11: sync.enabled: must be true or false, not an integer") {
		t.Error(err)
	}
	if ps, err := Lint(write(t, "[firewall]\nenable = true\n")); err != nil || len(ps) != 1 || !strings.Contains(ps[0].Message, `did you mean "enabled"`) {
		t.Errorf("%v %v", ps, err)
	}
	if ps, err := Lint(write(t, "sync = 3\n")); err != nil || len(ps) != 1 {
		t.Errorf("%v %v", ps, err)
	}
	if err := Init(context.Background(), write(t, manual), DefaultConfig().Defaults, false); err != nil {
		t.Error(err)
	}
}
