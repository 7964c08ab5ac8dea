package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/domain"
)

// model has aivm define a VM, kills it before the start, and copies its choices: acceleration,
// size, network. The VM is deleted, its network stays.
func (s *seedRun) model() error {
	b, w := s.b, s.b.root
	c := w.command(b.ctx, w.home, []string{"AIVM_KILL_AT=domain.start:before"}, w.program("aivm-faulty"), "vm", "create", vmFurther, "--yes")
	var errw bytes.Buffer
	c.Stderr = &errw
	if err := c.Run(); err == nil {
		return errors.New("the run was not killed before it starts the VM")
	}
	desc, err := virsh(b.ctx, "dumpxml", vmFurther)
	if err != nil {
		return failed(c.Args, err, errw.Bytes())
	}
	d, err := virt.ParseDomain(desc)
	if err != nil {
		return err
	}
	s.network = d.Network
	s.spec = domain.Spec{
		Name: vmSeed, Owner: os.Getuid(), Accel: d.Accel, VCPUs: d.VCPUs, RAMMB: d.RAMMB,
		DiskPath: filepath.Join(baseDir, vmSeed+".qcow2"), SeedPath: filepath.Join(baseDir, vmSeed+".seed"),
		SerialLog:  filepath.Join(baseDir, vmSeed+".serial.log"),
		ExportRoot: filepath.Join(baseDir, vmSeed+".export"), FSTag: "aivm-root", Network: d.Network, MAC: seedMAC,
	}
	disk, ok := d.Disk(domain.DiskSerial)
	if !ok {
		return fmt.Errorf("VM %s has no disk", vmFurther)
	}
	info, err := host(b.ctx, "qemu-img", "info", "--output=json", disk.File)
	if err != nil {
		return err
	}
	if s.diskSize, err = virtualSize(info); err != nil {
		return err
	}
	_, _, err = w.aivm(b.ctx, w.home, "vm", "delete", vmFurther, "--yes")
	return err
}

// virtualSize reads the size of the guest's disk from the output of qemu-img info.
func virtualSize(info string) (string, error) {
	var disk struct {
		Size int64 `json:"virtual-size"`
	}
	if err := json.Unmarshal([]byte(info), &disk); err != nil {
		return "", err
	}
	return strconv.FormatInt(disk.Size, 10), nilIf(disk.Size > 0, "qemu-img prints no size")
}
