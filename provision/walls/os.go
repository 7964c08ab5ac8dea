package walls

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"time"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/root/nftread"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/wall"
	"aivm.dev/aivm/provision/firewall"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/session"
)

// OS is the real FirewallState of this machine.
type OS struct{}

// Hooks compares the program of libvirt's hooks with the one that runs.
func (OS) Hooks() (current, known bool, err error) {
	current, err = root.HooksCurrent("/proc/self/exe")
	return current, root.HooksKnown(), err
}

// Manifests reads what root keeps below /var/lib/aivm.
func (OS) Manifests() ([]root.NetManifest, error) { return root.NetManifests() }

// Rules reads the manifest and, as root or by sudo, the kernel's rules.
func (OS) Rules(ctx context.Context, network string, sudo bool) firewall.Facts {
	var f firewall.Facts
	m, err := root.ReadNetManifest(network)
	switch {
	case err == nil:
		f.Manifest.Value = &m
	case !errors.Is(err, fs.ErrNotExist):
		f.Manifest.Err = err
	}
	f.Local.Value, f.Local.Err = wall.LocalNetworks()
	switch {
	case f.Manifest.Value == nil:
	case os.Geteuid() == 0:
		f.Kernel.Value, f.Kernel.Err = nftread.Read(m.Wall.Tables())
	case sudo:
		f.Kernel = rulesBySudo(ctx, network)
	default:
		f.Kernel.Err = errors.New("only root can read the firewall's rules")
	}
	return f
}

// Ruleset runs nft, by sudo where this user may not.
func (OS) Ruleset(ctx context.Context, sudo bool) ([]byte, error) {
	argv := []string{"nft", "-j", "list", "ruleset"}
	switch {
	case os.Geteuid() == 0:
	case sudo:
		argv = append([]string{"sudo", "-n", "--"}, argv...)
	default:
		return nil, errors.New("only root can read the firewall's rules")
	}
	ctx, cancel := context.WithTimeout(ctx, sudoLimit)
	defer cancel()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, session.LastLine(stderr.String()))
	}
	return out, nil
}

// sudoLimit is long for a program that reads a table.
const sudoLimit = 20 * time.Second

// rulesBySudo has the root-owned copy of aivm read the rules: one sudo, whose
// exact command a line of sudoers can allow.
func rulesBySudo(ctx context.Context, network string) plan.Known[nftread.Content] {
	var k plan.Known[nftread.Content]
	argv := root.CheckArgs(network)
	if _, err := os.Stat(argv[0]); err != nil {
		// Somebody took it away; this program does the same for whoever may run
		// anything.
		if argv[0], err = os.Executable(); err != nil {
			return plan.Unknown[nftread.Content](err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, sudoLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sudo", append([]string{"-n", "--"}, argv...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var ee *exec.ExitError
	switch {
	case errors.As(err, &ee) && ee.ExitCode() == 1: // sudo's own; ours is 2
		k.Err = fmt.Errorf("%w: %s", firewall.ErrPasswordNeeded, session.LastLine(stderr.String()))
	case errors.Is(err, exec.ErrNotFound):
		k.Err = errors.New("only root can read the firewall's rules, and sudo is not installed")
	case err != nil:
		k.Err = fmt.Errorf("reading the firewall's rules as root: %w: %s", err, session.LastLine(stderr.String()))
	default:
		if err := json.Unmarshal(out, &k.Value); err != nil {
			k.Err = fmt.Errorf("reading the firewall's rules as root: %w", err)
		}
	}
	return k
}

// sudoersLine allows the reading of a network's rules and nothing else.
func sudoersLine(user, network string) string {
	line := user + " ALL=(root) NOPASSWD:"
	for _, w := range root.CheckArgs(network) {
		line += " " + w
	}
	return line
}

// unreadable is the refusal to use a guest behind a wall nobody could look at.
func (e Part) unreadableRules(f *loop.WallFacts, err error) error {
	r := ui.Refused("whether the firewall of network %q is in place could not be read: %w", f.Network, err)
	if errors.Is(err, firewall.ErrPasswordNeeded) {
		r.Hint(ui.CmdFor("run it in a terminal, or allow just this reading", f.Allow))
	}
	return r.Hint(ui.CmdFor("to go on without the firewall, this once", ui.AddFlag(e.Rerun, "--no-firewall")))
}

// allow is the command that lets this user read the rules of a network.
func (e Part) allow(network string) string {
	user := e.Getenv("USER")
	if user == "" {
		user = fmt.Sprintf("#%d", e.UID) // sudoers(5)
	}
	// sudo passes over files with a dot in their name (sudoers(5), @includedir).
	file := "/etc/sudoers.d/aivm-" + strings.ReplaceAll(network, ".", "_")
	return "echo " + shellescape.Quote(sudoersLine(user, network)) + " | sudo tee " + shellescape.Quote(file)
}
