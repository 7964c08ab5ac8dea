package program_test

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"debug/elf"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"aivm.dev/aivm/internal/program"
)

// limit is for one compressed agent: it is a part of aivm's own program.
const limit = 2500 << 10

func TestAgentsAreStaticPrograms(t *testing.T) {
	for arch, machine := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		b, err := program.Agent(arch)
		if err != nil {
			t.Fatal(err)
		}
		f, err := elf.NewFile(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		if f.Machine != machine {
			t.Errorf("%s: the program is for %v", arch, f.Machine)
		}
		for _, p := range f.Progs {
			if p.Type == elf.PT_INTERP {
				t.Errorf("%s: the program needs a dynamic loader; the initrd has none", arch)
			}
		}
		digest, err := program.Digest(arch)
		if sum := sha256.Sum256(b); err != nil || digest != hex.EncodeToString(sum[:]) {
			t.Errorf("%s: the digest is %s (%v)", arch, digest, err)
		}
		if info, err := os.Stat("agent-" + arch + ".gz"); err != nil || info.Size() > limit {
			t.Errorf("%s: %v bytes compressed, more than %d (%v)", arch, info.Size(), limit, err)
		}
	}
	_, err := program.Agent("vax")
	if _, e := program.Digest("vax"); err == nil || e == nil {
		t.Error("there is an agent for an architecture that has none")
	}
}

// TestAgentsAreBuiltFromThisSource fails after a change of the agent until
// `make programs` has rebuilt the embedded ones.
func TestAgentsAreBuiltFromThisSource(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the agent")
	}
	embedded, err := program.Agent(runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	info, err := buildinfo.Read(bytes.NewReader(embedded))
	if err != nil {
		t.Fatal(err)
	}
	if info.GoVersion != runtime.Version() {
		t.Skipf("the embedded agent was built by %s, this is %s", info.GoVersion, runtime.Version())
	}
	dir := t.TempDir()
	cmd := exec.Command("../../scripts/programs.sh", "--to", dir, runtime.GOARCH)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	built, err := os.ReadFile(filepath.Join(dir, "agent-"+runtime.GOARCH))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(built, embedded) {
		t.Error("the embedded agent is not what its source gives: run make programs")
	}
}
