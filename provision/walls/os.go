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

// OS reads the real firewall and hooks of this machine (session.FirewallState).
type OS struct{}

// Hooks reports whether libvirt's hooks run a copy of the running program.
func (OS) Hooks() (current, known bool, err error) {
	current, err = root.HooksCurrent("/proc/self/exe")
	return current, root.HooksKnown(), err
}

// Manifests reads the manifests of firewalls below /var/lib/aivm.
func (OS) Manifests() ([]root.NetManifest, error) { return root.NetManifests() }

// Rules reads the manifest and, as root or with sudo, the kernel's rules.
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

// Ruleset returns the output of `nft -j list ruleset`, run with sudo if the user is not
// root.
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

// sudoLimit is how long reading the rules may take; normally it takes well under a second.
const sudoLimit = 20 * time.Second

// rulesBySudo makes the root-owned copy of aivm read the rules, by one sudo whose exact
// command a line in sudoers can allow.
func rulesBySudo(ctx context.Context, network string) plan.Known[nftread.Content] {
	var k plan.Known[nftread.Content]
	argv := root.CheckArgs(network)
	if _, err := os.Stat(argv[0]); err != nil {
		// The copy was removed. The running program does the same for a user who may run
		// any command with sudo.
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
	case errors.As(err, &ee) && ee.ExitCode() == 1: // sudo's own status; aivm's is 2
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

// sudoersLine returns a line of sudoers that allows the user to read a network's rules and
// nothing else.
func sudoersLine(user, network string) string {
	line := user + " ALL=(root) NOPASSWD:"
	for _, w := range root.CheckArgs(network) {
		line += " " + w
	}
	return line
}

// unreadableRules refuses to use a guest whose firewall rules cannot be read.
func (e Part) unreadableRules(f *loop.WallFacts, err error) error {
	r := ui.Refused("cannot read whether the firewall of network %q is loaded: %w", f.Network, err)
	if errors.Is(err, firewall.ErrPasswordNeeded) {
		r.Hint(ui.CmdFor("run the command in a terminal, or allow sudo to read just these rules", f.Allow))
	}
	return r.Hint(ui.CmdFor("to continue without the firewall, this once", ui.AddFlag(e.Rerun, "--no-firewall")))
}

// allow returns the command that lets this user read the rules of a network with sudo.
func (e Part) allow(network string) string {
	user := e.Getenv("USER")
	if user == "" {
		user = fmt.Sprintf("#%d", e.UID) // sudoers(5)
	}
	// sudo ignores files with a dot in their name (sudoers(5), @includedir).
	file := "/etc/sudoers.d/aivm-" + strings.ReplaceAll(network, ".", "_")
	return "echo " + shellescape.Quote(sudoersLine(user, network)) + " | sudo tee " + shellescape.Quote(file)
}
