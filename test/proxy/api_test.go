package proxy

import (
	"path/filepath"
	"testing"

	"aivm.dev/aivm/provision/codeserver"
)

func newProxy(s *site, record string) *codeserver.Proxy {
	return &codeserver.Proxy{Dial: dialer(s), Password: "pw", Folder: "/work/" + s.name, Record: record}
}

// invitation returns the URL of the local page that `aivm code` opens in the browser.
func invitation(t *testing.T, p *codeserver.Proxy) string {
	t.Helper()
	address, _ := p.Invite()
	path, remove, err := codeserver.WritePage(filepath.Join(t.TempDir(), "open"), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(remove)
	return "file://" + path
}
