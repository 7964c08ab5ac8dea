package sshcfg

import "context"

// probeAlias is an unused host name, for which ssh only reads its configuration.
const probeAlias = "aivm-doctor"

// Health returns what prevents ssh or aivm from using the user's configuration: a line at
// which ssh fails, or damaged aivm markers; nil if there is nothing. It runs "ssh -G" once,
// which executes the user's "Match exec" commands, as every connection does.
func Health(ctx context.Context, l Layout, run Runner) error {
	if err := l.Guarded(); err != nil {
		return err
	}
	f, err := readFile(l.sshConfig())
	if err != nil {
		return l.readOnly(err)
	}
	if _, err := ensureInclude(f.Data, l.storeIn(f.Data)); err != nil {
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
