package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"golang.org/x/crypto/ssh"

	"aivm.dev/aivm/cloudinit"
	"aivm.dev/aivm/provision/domain"
	"aivm.dev/aivm/sshcfg"
)

const (
	seedUser = "agent"
	seedMAC  = "52:54:00:be:9c:01"
)

// seedRun holds what the boots with both seeds have in common.
type seedRun struct {
	b           *bench
	network     string
	addr        string
	reservation string // the reservation in virsh's syntax
	base        string
	spec        domain.Spec
	key         ssh.Signer
	hostKey     sshcfg.HostKey
	diskSize    string
}

// measureSeed boots the same image in the same domain, alternating between aivm's seed and one with
// only a user and a key, and measures the time until login with the key works.
func (b *bench) measureSeed() (err error) {
	s := &seedRun{b: b}
	defer b.dropSeedDomain(context.WithoutCancel(b.ctx))
	if err := s.prepare(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.reserve(context.WithoutCancel(b.ctx), "delete")) }()
	var p pairs
	for i := range b.pairs {
		b.say("aivm's seed and a minimal one, pair %d of %d (two boots)", i+1, b.pairs)
		if err := p.take(func() (time.Duration, error) { return s.boot(s.aivmSeed) }, func() (time.Duration, error) { return s.boot(s.minimalSeed) }); err != nil {
			return err
		}
		b.say("  aivm %s, minimal %s", seconds(p.aivm[i]), seconds(p.reference[i]))
	}
	r := p.ratio()
	b.table.add(figure{
		fmt.Sprintf("aivm's seed, boot to key login, median of %d pairs", b.pairs), seconds(median(p.aivm)),
		"user and key only " + seconds(median(p.reference)), ratio(r), "<= 1.10", "",
	}, r <= 1.10)
	return nil
}

// prepare copies the settings of the domain and its network from a VM that aivm defined, so that
// both seeds run under the conditions of a real VM.
func (s *seedRun) prepare() error {
	b, ctx := s.b, s.b.ctx
	if err := b.ensureBase(); err != nil {
		return err
	}
	var err error
	if s.base, err = b.base(); err != nil {
		return err
	}
	if err := s.model(); err != nil {
		return err
	}
	if s.addr, err = freeAddress(ctx, s.network); err != nil {
		return err
	}
	s.reservation = fmt.Sprintf("<host mac='%s' name='%s' ip='%s'/>", seedMAC, vmSeed, s.addr)
	if err := s.reserve(ctx, "add-last"); err != nil {
		return err
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	if s.key, err = ssh.NewSignerFromKey(private); err != nil {
		return err
	}
	s.hostKey, err = sshcfg.NewHostKey()
	return err
}

func (s *seedRun) reserve(ctx context.Context, how string) error {
	_, err := virsh(ctx, "net-update", s.network, how, "ip-dhcp-host", s.reservation, "--live", "--config")
	return err
}

// boot defines the domain with a new disk and returns the time from its start to the login.
func (s *seedRun) boot(seed func(path, instance string) error) (time.Duration, error) {
	ctx := s.b.ctx
	s.b.dropSeedDomain(ctx)
	spec := s.spec
	spec.UUID = uuid.NewString()
	if err := seed(spec.SeedPath, spec.UUID); err != nil {
		return 0, err
	}
	if _, err := host(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-b", s.base, "-F", "qcow2", spec.DiskPath, s.diskSize); err != nil {
		return 0, err
	}
	if err := os.MkdirAll(spec.ExportRoot, 0o755); err != nil {
		return 0, err
	}
	desc, err := domain.XML(spec)
	if err != nil {
		return 0, err
	}
	file := filepath.Join(s.b.work, vmSeed+".xml")
	if err := os.WriteFile(file, []byte(desc), 0o600); err != nil {
		return 0, err
	}
	if _, err := virsh(ctx, "define", file); err != nil {
		return 0, err
	}
	if _, err := virsh(ctx, "start", vmSeed); err != nil {
		return 0, err
	}
	began := time.Now()
	took, err := s.login(began)
	s.b.dropSeedDomain(ctx)
	return took, err
}

// login retries until the key is accepted: every 100 ms until the port answers, and half a second
// after a refusal, as aivm does.
func (s *seedRun) login(began time.Time) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(s.b.ctx, 10*time.Minute)
	defer cancel()
	config := &ssh.ClientConfig{
		User: seedUser, Auth: []ssh.AuthMethod{ssh.PublicKeys(s.key)},
		// With the minimal seed the guest generates its own host key, so it is unknown; nothing is
		// sent to this throwaway guest.
		HostKeyCallback:   func(string, net.Addr, ssh.PublicKey) error { return nil },
		HostKeyAlgorithms: []string{ssh.KeyAlgoED25519},
	}
	for {
		gap := 100 * time.Millisecond
		d := net.Dialer{Timeout: 2 * time.Second}
		c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(s.addr, "22"))
		if err == nil {
			stop := context.AfterFunc(ctx, func() { _ = c.Close() })
			var conn ssh.Conn
			conn, _, _, err = ssh.NewClientConn(c, s.addr, config)
			stop()
			if err == nil {
				took := time.Since(began)
				return took, conn.Close()
			}
			_ = c.Close()
			gap = 500 * time.Millisecond
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("no login at %s: %w: %w", s.addr, ctx.Err(), err)
		case <-time.After(gap):
		}
	}
}

// aivmSeed writes the seed that aivm would write.
func (s *seedRun) aivmSeed(path, instance string) error {
	data, err := cloudinit.Seed(cloudinit.Guest{
		InstanceID: instance, Hostname: vmSeed, User: seedUser,
		AuthorizedKeys:    []string{s.authorized()},
		HostKeyPrivatePEM: string(s.hostKey.PrivatePEM), HostKeyPublic: s.hostKey.AuthorizedKey(), MAC: seedMAC,
	})
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}

// minimalSeed writes the simplest seed: a user and a key, everything else is left to cloud-init and
// the image.
func (s *seedRun) minimalSeed(path, instance string) error {
	dir, err := os.MkdirTemp(s.b.work, "seed-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	user := fmt.Sprintf("#cloud-config\nusers:\n- name: %s\n  shell: /bin/bash\n  sudo: ALL=(ALL) NOPASSWD:ALL\n  ssh_authorized_keys:\n  - %s\n", seedUser, s.authorized())
	for name, text := range map[string]string{"user-data": user, "meta-data": "instance-id: " + instance + "\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	_, err = host(s.b.ctx, "genisoimage", "-quiet", "-output", path, "-volid", cloudinit.Label, "-joliet", "-rock",
		filepath.Join(dir, "user-data"), filepath.Join(dir, "meta-data"))
	return err
}

func (s *seedRun) authorized() string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(s.key.PublicKey())))
}

// freeAddress returns the highest unreserved address of the network. aivm takes the lowest.
func freeAddress(ctx context.Context, network string) (string, error) {
	desc, err := virsh(ctx, "net-dumpxml", network)
	if err != nil {
		return "", err
	}
	_, rest, ok := strings.Cut(desc, "<ip address='")
	text, _, _ := strings.Cut(rest, "'")
	gateway, err := netip.ParseAddr(text)
	if !ok || err != nil || !gateway.Is4() {
		return "", fmt.Errorf("network %s has no IPv4 address: %w", network, err)
	}
	for last := byte(250); last > 200; last-- {
		a := gateway.As4()
		a[3] = last
		if ip := netip.AddrFrom4(a).String(); !strings.Contains(desc, "'"+ip+"'") {
			return ip, nil
		}
	}
	return "", errors.New("network " + network + " has no free address")
}

// dropSeedDomain removes the domain that the bench itself defines, with its files, as far as they
// exist.
func (b *bench) dropSeedDomain(ctx context.Context) {
	desc, err := virsh(ctx, "dumpxml", vmSeed)
	if err == nil && strings.Contains(desc, baseDir+"/") { // else it is another VM of that name
		_, _ = virsh(ctx, "destroy", vmSeed)
		_, _ = virsh(ctx, "undefine", vmSeed)
	}
	for _, suffix := range []string{".qcow2", ".seed", ".serial.log"} {
		_ = os.Remove(filepath.Join(baseDir, vmSeed+suffix))
	}
	_ = syscall.Rmdir(filepath.Join(baseDir, vmSeed+".export"))
}
