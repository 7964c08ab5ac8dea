package definition

import (
	"encoding/xml"
	"fmt"
	"io"
	"strconv"
)

// VM is what a hook has to know of a VM's definition.
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

// readLimit bounds what is read of a definition: libvirt takes 4 MiB of a
// person, and more from a file of its own.
const readLimit = 64 << 20

// ReadVM reads the definition of a VM that libvirt hands to a hook.
func ReadVM(stdin io.Reader) (VM, error) {
	var d VM
	if err := xml.NewDecoder(io.LimitReader(stdin, readLimit)).Decode(&d); err != nil {
		return d, fmt.Errorf("reading the VM's definition: %w", err)
	}
	return d, nil
}

// Owner is whose VM it is, if it is one of aivm's.
func (d VM) Owner() (int, bool) {
	for _, m := range d.Marks {
		if owner, err := strconv.Atoi(m.Owner); m.XMLName.Space == MarkSpace && err == nil && owner >= 0 {
			return owner, true
		}
	}
	return 0, false
}
