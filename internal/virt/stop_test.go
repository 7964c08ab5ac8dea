package virt

import (
	"context"
	"fmt"
	"os"
	"testing"
)

// Stopping a domain that is off is not an error: it may have powered off since its state was read.
func TestStopOfADomainThatIsOff(t *testing.T) {
	ctx := context.Background()
	c := daemon(t)
	name := fmt.Sprintf("virtstop%d", os.Getpid())
	if _, err := c.l.DomainDefineXML("<domain type='qemu'><name>" + name + "</name><memory unit='MiB'>16</memory><os><type arch='x86_64'>hvm</type></os></domain>"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Undefine(ctx, name); err != nil {
			t.Error(err)
		}
	})
	if err := c.Shutdown(ctx, name); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if err := c.Destroy(ctx, name); err != nil {
		t.Errorf("Destroy: %v", err)
	}
}
