package transfer

import (
	"bufio"
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
)

// FuzzAdvertisement checks that what upload-pack and receive-pack print is parsed or refused,
// without more refs than the input can hold.
func FuzzAdvertisement(f *testing.F) {
	a := strings.Repeat("0a", 20)
	pkt := func(s string) string {
		const hex = "0123456789abcdef"
		n := len(s) + 4
		return string([]byte{hex[n>>12&15], hex[n>>8&15], hex[n>>4&15], hex[n&15]}) + s
	}
	f.Add([]byte(pkt(a+" HEAD\x00multi_ack side-band-64k ofs-delta symref=HEAD:refs/heads/main agent=git/2.39\n") + pkt(a+" refs/heads/main\n") + pkt(a+" refs/tags/v1^{}\n") + "0000"))
	f.Add([]byte(pkt(strings.Repeat("0", 40)+" capabilities^{}\x00report-status\n") + "0000"))
	f.Add([]byte(pkt("shallow "+a) + "0000"))
	f.Add([]byte("ffff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		adv := packp.NewAdvRefs()
		if err := adv.Decode(bufio.NewReader(bytes.NewReader(b))); err == nil && len(adv.References)*40 > len(b) {
			t.Errorf("%d refs of %d bytes", len(adv.References), len(b))
		}
		var answer packp.ServerResponse
		_ = answer.Decode(bufio.NewReader(bytes.NewReader(b)), false)
		st := packp.NewReportStatus()
		_ = st.Decode(bytes.NewReader(b))
		// A guest that continues to send is cut off at the limit.
		over := false
		c := &counted{r: io.MultiReader(bytes.NewReader(b), bytes.NewReader(b)), remaining: int64(len(b)), alive: func() {}, exceeded: func() { over = true }}
		if got, err := io.ReadAll(c); len(b) > 0 && (err == nil || !over || len(got) != len(b)) {
			t.Errorf("%d bytes of at most %d: %v", len(got), len(b), err)
		}
	})
}
