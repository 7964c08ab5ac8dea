package sshcfg

import "context"

// probeAlias is a name nobody has; ssh only has to read its configuration.
const probeAlias = "aivm-doctor"

// Health says what keeps ssh, or aivm, from reading the user's configuration:
// a line ssh stops at, or markers of ours that are not whole. It runs "ssh -G"
// once, and with it the user's own "Match exec" commands, as every connection
// does.
func Health(ctx context.Context, l Layout, run Runner) error {
	if err := l.Guarded(); err != nil {
		return err
	}
	f, err := readFile(l.sshConfig())
	if err != nil {
		return l.readOnly(err)
	}
	if _, err := ensureInclude(f.Data, l.in(f.Data)); err != nil {
		return l.explain(err)
	}
	if !f.Exists {
		return nil
	}
	if run == nil {
		run = Exec
	}
	_, err = effective(ctx, run, l.SSHArgs(), probeAlias)
	return err
}
