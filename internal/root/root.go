// Package root is the one place where aivm acts with root's rights.
//
// It owns the helper process that executes typed records ("sudo aivm
// root-apply"), the client that talks to it and the wire between them. The
// packages below it own the parts: record the records and their checks,
// exportroot and protect the folders, nftload the walls, hookinstall and hookrun
// libvirt's hooks, hostsetup this machine, imagebuild images, manifest and
// rootfile what is kept. What the rest of aivm uses of them has its name here.
// The helper accepts nothing but these records, and shows each in words with
// the nearest shell line before it runs.
//
// It never decides whether something should be done: that is plan's and the
// person's business. Invariants: at most one sudo process per run; every path
// and name in a record is checked again inside the helper; nothing recursive
// is ever done at or below a directory that can hold a mount.
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

// The records, what they leave behind, and what they are told meanwhile.
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

// What root's part of aivm writes down for everybody to read.
type (
	NetManifest = manifest.Net
	VMManifest  = manifest.VM
	Protection  = protect.Protection
	DeviceGuard = devguard.DeviceGuard
)

// Why protected paths, or device nodes, are not what they should be.
type (
	OpenError     = protect.OpenError
	FailedError   = protect.FailedError
	ReplacedError = protect.ReplacedError
	UnseenError   = devguard.UnseenError
)

const (
	// ExportBase is the directory below which every VM has its export root.
	ExportBase = rootfile.ExportBase
	// MaxProtected bounds the paths of one Bind: each is a mount.
	MaxProtected = record.MaxProtected
	// HookProgram is the copy of aivm libvirt's hooks run.
	HookProgram = rootfile.HookProgram
	// HookCommand is the hidden verb that becomes the hook; it calls RunHook.
	HookCommand = rootfile.HookCommand
)

// ErrInUse is a mount that somebody still holds: what Do says about it wraps
// this, also when it comes from the helper, and names who.
var ErrInUse = mount.ErrInUse

// VMKey names a VM machine-wide: two users may each have a VM called "a".
func VMKey(uid int, vm string) string { return rootfile.VMKey(uid, vm) }

// ExportRoot is the directory the virtiofs device of the VM with this key
// serves.
func ExportRoot(vmKey string) string { return rootfile.ExportRoot(vmKey) }

// ResolvedExport is ExportRoot as the mount table names it: /var or /var/lib
// may be links on the administrator's machine.
func ResolvedExport(vmKey string) (string, error) { return rootfile.ResolvedExport(vmKey) }

// ValidToken reports whether s can name a token directory.
func ValidToken(s string) bool { return record.ValidToken(s) }

// OpensLibvirt reports whether LibvirtSocket may open path.
func OpensLibvirt(path string) bool { return record.OpensSocket(path) }

// ReadNetManifest reads a network's manifest; fs.ErrNotExist when there is
// none. Any user may.
func ReadNetManifest(network string) (NetManifest, error) { return manifest.ReadNet(network) }

// NetManifests are all manifests of networks that can be read. Any user may
// ask.
func NetManifests() ([]NetManifest, error) { return manifest.Nets() }

// ReadVMManifest reads a VM's manifest; fs.ErrNotExist when there is none. Any
// user may.
func ReadVMManifest(vmKey string) (VMManifest, error) { return manifest.ReadVM(vmKey) }

// ReadProtection returns what was written down for a token; fs.ErrNotExist if
// nothing was.
func ReadProtection(vmKey, token string) (Protection, error) { return protect.Read(vmKey, token) }

// ReadDeviceGuard returns what was found when the VM started last;
// fs.ErrNotExist if that was not in this boot of the machine, or without the
// hook. Any user may ask.
func ReadDeviceGuard(vmKey string) (DeviceGuard, error) { return devguard.Read(vmKey) }

// DeviceGuardNoted reports whether something was written down at a start of the
// VM, in whatever boot.
func DeviceGuardNoted(vmKey string) bool { return devguard.Noted(vmKey) }

// HooksKnown reports whether hooks were ever put in place here, of whatever
// version.
func HooksKnown() bool { return hookinstall.Known() }

// HooksCurrent reports whether the hooks are in place and run this program.
// Any user may ask; self is the running program.
func HooksCurrent(self string) (bool, error) { return hookinstall.Current(self) }

// CheckArgs is the command that prints what the kernel holds of a network's
// rules; it needs root's rights, and changes nothing.
func CheckArgs(network string) []string { return hookrun.CheckArgs(network) }

// RunHook is what libvirt runs: kind, object's name, operation, sub-operation,
// extra; the object's XML on stdin. An error keeps the network or VM from
// starting.
func RunHook(ctx context.Context, args []string, stdin io.Reader, stdout io.Writer) error {
	return hookrun.Run(ctx, hookrun.LockLimit, args, stdin, stdout)
}
