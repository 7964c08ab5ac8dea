package definition

import (
	"encoding/xml"
	"fmt"
	"io"
	"strconv"
)

// VM holds the parts of a VM's definition that the hooks read.
type VM struct {
	ID    string `xml:"id,attr"` // while it runs
	Marks []struct {
		XMLName xml.Name
		Owner   string `xml:"owner,attr"`
	} `xml:"metadata>mark"`
	Disks []struct {
		Source struct {
			File string `xml:"file,attr"`
		} `xml:"source"`
	} `xml:"devices>disk"`
	Interfaces []struct {
		MAC struct {
			Address string `xml:"address,attr"`
		} `xml:"mac"`
		Source struct {
			Network string `xml:"network,attr"`
		} `xml:"source"`
		Target struct {
			Dev string `xml:"dev,attr"`
		} `xml:"target"`
	} `xml:"devices>interface"`
}

// readLimit is the most that is read of a definition, in bytes: libvirt accepts 4 MiB
// from a client, and more from its own files.
const readLimit = 64 << 20

// ReadVM reads the VM definition that libvirt passes to a hook.
func ReadVM(stdin io.Reader) (VM, error) {
	var d VM
	if err := xml.NewDecoder(io.LimitReader(stdin, readLimit)).Decode(&d); err != nil {
		return d, fmt.Errorf("reading the VM's definition: %w", err)
	}
	return d, nil
}

// Owner returns the uid of the VM's owner; ok is false if the VM is not aivm's.
func (d VM) Owner() (uid int, ok bool) {
	for _, m := range d.Marks {
		if owner, err := strconv.Atoi(m.Owner); m.XMLName.Space == MarkSpace && err == nil && owner >= 0 {
			return owner, true
		}
	}
	return 0, false
}
