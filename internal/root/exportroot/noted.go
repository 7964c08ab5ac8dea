package exportroot

import (
	"errors"
	"io/fs"
	"os"
	"slices"

	"aivm.dev/aivm/internal/root/manifest"
	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/root/rootfile"
)

// Bind binds a folder and notes it for the VM's next start.
func Bind(o record.Bind) (string, error) {
	note, err := bind(o)
	if err != nil {
		return "", err
	}
	return note, manifest.NoteFolders(o.VMKey, func(fs []record.Bind) []record.Bind { return with(fs, o) })
}

// Unbind forgets a folder first: a run that is killed in between
// leaves a mount that everybody can see, and nothing that comes back by itself.
func Unbind(o record.Unbind) error {
	var was []record.Bind
	err := manifest.NoteFolders(o.VMKey, func(fs []record.Bind) []record.Bind {
		was = slices.Clone(fs)
		return without(fs, o.Token)
	})
	if err != nil {
		return err
	}
	if o.Forget {
		return nil
	}
	if err := unbind(o); err != nil {
		back := manifest.NoteFolders(o.VMKey, func(fs []record.Bind) []record.Bind {
			for _, f := range was {
				if f.Token == o.Token {
					fs = with(fs, f)
				}
			}
			return fs
		})
		return errors.Join(err, back)
	}
	return nil
}

func with(fs []record.Bind, o record.Bind) []record.Bind {
	fs = slices.Clone(fs)
	if i := slices.IndexFunc(fs, func(f record.Bind) bool { return f.Token == o.Token }); i >= 0 {
		fs[i] = o
		return fs
	}
	return append(fs, o)
}

func without(fs []record.Bind, token string) []record.Bind {
	return slices.DeleteFunc(slices.Clone(fs), func(f record.Bind) bool { return f.Token == token })
}

// ForgetVM removes a VM's manifest with its export root.
func ForgetVM(vmKey string) error {
	if err := rootfile.IgnoreMissing(os.Remove(rootfile.DeviceGuardPath(vmKey))); err != nil {
		return err
	}
	if _, err := os.Lstat(rootfile.VMManifestPath(vmKey)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	release, err := manifest.Lock()
	if err != nil {
		return err
	}
	defer release()
	return rootfile.IgnoreMissing(os.Remove(rootfile.VMManifestPath(vmKey)))
}
