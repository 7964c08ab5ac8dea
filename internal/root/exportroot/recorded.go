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

// Bind mounts a folder on its token and records it for the VM's next start. It
// returns a remark for the user, or "".
func Bind(o record.Bind) (string, error) {
	var was []int
	if m, err := manifest.ReadVM(o.VMKey); err == nil {
		for _, f := range m.Folders {
			if f.Token == o.Token {
				was = f.Groups
			}
		}
	}
	note, groups, err := bind(o, was)
	if err != nil {
		return "", err
	}
	o.Groups = groups
	return note, manifest.UpdateFolders(o.VMKey, func(fs []record.Bind) []record.Bind { return with(fs, o) })
}

// Unbind removes the record of a folder and then unmounts it. In this order, a run
// that is killed in between leaves only a mount, which everybody can see, and the
// hook does not mount the folder again.
func Unbind(o record.Unbind) error {
	var before []record.Bind
	err := manifest.UpdateFolders(o.VMKey, func(fs []record.Bind) []record.Bind {
		before = slices.Clone(fs)
		return without(fs, o.Token)
	})
	if err != nil {
		return err
	}
	if o.Forget {
		return nil
	}
	if err := unbind(o); err != nil {
		restoreErr := manifest.UpdateFolders(o.VMKey, func(fs []record.Bind) []record.Bind {
			for _, f := range before {
				if f.Token == o.Token {
					fs = with(fs, f)
				}
			}
			return fs
		})
		return errors.Join(err, restoreErr)
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

// ForgetVM removes a VM's manifest and its record of device nodes.
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
