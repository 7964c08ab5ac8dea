// Package root does everything in aivm that needs root's rights.
//
// It owns the helper process that executes typed records ("sudo aivm
// root-apply"), the client that talks to it and the wire between them. The
// packages below it own the parts: record has the records and their checks,
// exportroot and protect the folders, nftload the firewalls, hookinstall and
// hookrun libvirt's hooks, hostsetup the setup of this machine, imagebuild the
// images, manifest and rootfile the files that root keeps. This package
// re-exports what the rest of aivm uses of them. The helper accepts only these
// records; each record has its nearest shell lines, which plans show.
//
// It never decides whether something should be done: plan and the user do.
// Invariants: at most one sudo process per run; the helper checks every path and
// name of a record again; nothing is done recursively at or below a directory
// that can hold a mount.
package root

import (
	"context"
	"io"

	"aivm.dev/aivm/internal/root/devguard"
	"aivm.dev/aivm/internal/root/hookinstall"
	"aivm.dev/aivm/internal/root/hookrun"
	"aivm.dev/aivm/internal/root/manifest"
	"aivm.dev/aivm/internal/root/mount"
	"aivm.dev/aivm/internal/root/protect"
	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/root/rootfile"
)

// The records, their results and their progress callback.
type (
	Op            = record.Op
	Export        = record.Export
	Bind          = record.Bind
	Unbind        = record.Unbind
	Unexport      = record.Unexport
	OldShares     = record.OldShares
	Packages      = record.Packages
	Service       = record.Service
	KVMDevice     = record.KVMDevice
	KVMModule     = record.KVMModule
	Ruleset       = record.Ruleset
	LibvirtSocket = record.LibvirtSocket
	BuildImage    = record.BuildImage
	Hooks         = record.Hooks
	Nft           = record.Nft
	Result        = record.Result
	Progress      = record.Progress
	BuildFunc     = record.BuildFunc
)

// What the helper and the hooks record on disk for users to read.
type (
	NetManifest = manifest.Net
	VMManifest  = manifest.VM
	Protection  = protect.Protection
	DeviceGuard = devguard.DeviceGuard
)

// Errors that say why protected paths are writable, or device nodes possible.
type (
	OpenError     = protect.OpenError
	FailedError   = protect.FailedError
	ReplacedError = protect.ReplacedError
	UnseenError   = devguard.UnseenError
)

const (
	// ExportBase is the directory below which every VM has its export root.
	ExportBase = rootfile.ExportBase
	// MaxProtected is the most paths of one Bind: each is a mount.
	MaxProtected = record.MaxProtected
	// HookProgram is the path of the copy of aivm that libvirt's hooks run.
	HookProgram = rootfile.HookProgram
	// HookCommand is the hidden verb of the hooks; it calls RunHook.
	HookCommand = rootfile.HookCommand
)

// ErrInUse is wrapped by the error of Do for a mount that is busy, also when the
// helper reports it. The error names the processes that hold the mount.
var ErrInUse = mount.ErrInUse

// VMKey returns the name of a VM that is unique on this machine: two users may
// each have a VM called "a".
func VMKey(uid int, vm string) string { return rootfile.VMKey(uid, vm) }

// ExportRoot returns the directory that the virtiofs device of the VM with this
// key serves.
func ExportRoot(vmKey string) string { return rootfile.ExportRoot(vmKey) }

// ResolvedExport returns ExportRoot as the mount table names it: /var or /var/lib
// may be symbolic links.
func ResolvedExport(vmKey string) (string, error) { return rootfile.ResolvedExport(vmKey) }

// ValidToken reports whether s can name a token directory.
func ValidToken(s string) bool { return record.ValidToken(s) }

// OpensLibvirt reports whether LibvirtSocket may open path.
func OpensLibvirt(path string) bool { return record.OpensSocket(path) }

// Mappable returns the groups that a folder of group gid can have mapped besides gid.
func Mappable(gid int, groups []int) []int { return record.Mappable(gid, groups) }

// OwnersOnDisk returns the ids on disk that the mount of a folder of this owner maps
// always: the guest user's and guest root's.
func OwnersOnDisk(owner int) []int {
	var out []int
	for _, m := range record.OwnerMap(owner) {
		out = append(out, m.ContainerID)
	}
	return out
}

// GuestGroup returns the gid in the guest of a mapped group g of a folder of group gid.
func GuestGroup(gid, g int) int { return record.GuestGroup(gid, g) }

// ReadNetManifest reads a network's manifest; fs.ErrNotExist when there is
// none. Any user may call it.
func ReadNetManifest(network string) (NetManifest, error) { return manifest.ReadNet(network) }

// NetManifests returns all manifests of networks that can be read. Any user may
// call it.
func NetManifests() ([]NetManifest, error) { return manifest.Nets() }

// ReadVMManifest reads a VM's manifest; fs.ErrNotExist when there is none. Any
// user may call it.
func ReadVMManifest(vmKey string) (VMManifest, error) { return manifest.ReadVM(vmKey) }

// ReadProtection reads the record of a token's protected paths; fs.ErrNotExist if
// there is none.
func ReadProtection(vmKey, token string) (Protection, error) { return protect.Read(vmKey, token) }

// ReadDeviceGuard reads what the hook recorded at the last start of the VM;
// fs.ErrNotExist if the VM started in an earlier boot of this machine, or without
// the hook. Any user may call it.
func ReadDeviceGuard(vmKey string) (DeviceGuard, error) { return devguard.Read(vmKey) }

// DeviceGuardRecorded reports whether the hook ever recorded a start of the VM, in
// this or an earlier boot.
func DeviceGuardRecorded(vmKey string) bool { return devguard.Recorded(vmKey) }

// HooksKnown reports whether hooks were ever installed on this machine, by any
// version of aivm.
func HooksKnown() bool { return hookinstall.Known() }

// HooksCurrent reports whether the hooks are installed and run the same program
// as self, the running one. Any user may call it.
func HooksCurrent(self string) (bool, error) { return hookinstall.Current(self) }

// CheckArgs returns the command that prints the rules of a network as the kernel
// has them. The command needs root's rights and changes nothing.
func CheckArgs(network string) []string { return hookrun.CheckArgs(network) }

// RunHook runs as libvirt's hook. args are kind, object's name, operation,
// sub-operation and extra; stdin is the object's XML. An error keeps the network
// or VM from starting.
func RunHook(ctx context.Context, args []string, stdin io.Reader, stdout io.Writer) error {
	return hookrun.Run(ctx, hookrun.LockLimit, args, stdin, stdout)
}
