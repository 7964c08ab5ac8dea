package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/domain"
)

const sudoers = "/etc/sudoers.d/" + userName

// prepare creates the homes and the user, and makes sure that the guest image is in the cache; none
// of that is measured.
func (b *bench) prepare() error {
	if out, err := host(b.ctx, "useradd", "-m", "-u", strconv.Itoa(userUID), "-U", "-s", "/bin/bash", userName); err != nil {
		return errors.Join(err, errors.New(out))
	}
	if err := os.WriteFile(sudoers, []byte(userName+" ALL=(ALL) NOPASSWD: ALL\n"), 0o440); err != nil {
		return err
	}
	for _, w := range []*world{b.root, b.user} {
		if err := w.writeFiles(); err != nil {
			return err
		}
	}
	b.say("the guest image, from the cache or built (about 100 s)")
	_, _, err := b.root.aivm(b.ctx, b.root.home, "host", "image-fetch", "--yes")
	return err
}

// cleanUp removes everything a bench creates, whether it exists or not. VMs are deleted first;
// while one remains, so does everything the next attempt to delete it needs.
func (b *bench) cleanUp() error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(b.ctx), 3*time.Minute)
	defer cancel()
	b.dropSeedDomain(ctx)
	var errs []error
	for w, vms := range map[*world][]string{b.root: {vmMain, vmFurther}, b.user: {vmUser}} {
		for _, vm := range vms {
			if _, err := w.address(vm); err != nil {
				continue // never created
			}
			_, _, err := w.aivm(ctx, w.home, "vm", "delete", vm, "--yes")
			errs = append(errs, err)
		}
	}
	if remaining, err := leftover(ctx); err != nil || remaining != "" {
		return errors.Join(append(errs, err, nilIf(remaining == "", "VMs remain: "+remaining))...)
	}
	b.dropPrepared(ctx)
	errs = append(errs, dropPool(ctx), b.dropNetworks(ctx))
	if exec.CommandContext(ctx, "id", userName).Run() == nil {
		// userdel complains about a missing mail spool; id shows afterwards whether it worked.
		_ = exec.CommandContext(ctx, "userdel", "-r", userName).Run()
		if exec.CommandContext(ctx, "id", userName).Run() == nil {
			errs = append(errs, errors.New("the user "+userName+" could not be removed"))
		}
	}
	_ = os.Remove(sudoers)
	return errors.Join(append(errs, os.RemoveAll(b.work))...)
}

// leftover returns the names of the bench's VMs that libvirt still has.
func leftover(ctx context.Context) (string, error) {
	out, err := virsh(ctx, "list", "--all", "--name")
	if err != nil {
		return "", err
	}
	var remaining []string
	for _, name := range strings.Fields(out) {
		if !slices.Contains([]string{vmMain, vmFurther, vmUser, vmSeed}, name) {
			continue
		}
		// The user may have a VM of that name; the bench's VMs have their disks in its pool.
		if desc, err := virsh(ctx, "dumpxml", name); err != nil || strings.Contains(desc, baseDir+"/") {
			remaining = append(remaining, name)
		}
	}
	return strings.Join(remaining, " "), nil
}

// poolName returns aivm's name for the pool of baseDir.
func poolName() string { return domain.PoolFor(nil, baseDir, "") }

// dropPool removes the storage pool and the plain files in its directory.
func dropPool(ctx context.Context) error {
	_, _ = virsh(ctx, "pool-destroy", poolName())
	_, _ = virsh(ctx, "pool-undefine", poolName())
	entries, err := os.ReadDir(baseDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		errs = append(errs, os.Remove(filepath.Join(baseDir, e.Name())))
	}
	return errors.Join(append(errs, os.Remove(baseDir))...)
}

func networks(ctx context.Context) ([]string, error) {
	out, err := virsh(ctx, "net-list", "--all", "--name")
	return strings.Fields(out), err
}

// dropNetworks removes the networks of the throwaway user, and root's network if this run created
// it and no VM uses it now.
func (b *bench) dropNetworks(ctx context.Context) error {
	names, err := networks(ctx)
	if err != nil {
		return err
	}
	used := ""
	out, err := virsh(ctx, "list", "--all", "--name")
	if err != nil {
		return err
	}
	for _, vm := range strings.Fields(out) {
		desc, err := virsh(ctx, "dumpxml", "--inactive", vm)
		if err != nil {
			continue // removed between the two calls
		}
		used += desc
	}
	var errs []error
	for _, n := range names {
		desc, err := virsh(ctx, "net-dumpxml", n)
		if err != nil || !strings.Contains(desc, virt.MarkNS) || strings.Contains(used, "<source network='"+n+"'") {
			continue
		}
		users := strings.Contains(desc, `owner="`+strconv.Itoa(userUID)+`"`)
		roots := strings.Contains(desc, `owner="0"`) && b.networks != nil && !slices.Contains(b.networks, n)
		if users || roots {
			_, _ = virsh(ctx, "net-destroy", n)
			_ = os.Remove("/var/lib/aivm/manifest/net-" + n + ".json")
			_, err := virsh(ctx, "net-undefine", n)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
