package record

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	libvirt "github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"
)

// pool is a libvirt pool of type dir, with its files in memory.
type pool struct {
	name   string
	uuid   libvirt.UUID
	x      *libvirtxml.StoragePool
	active bool
	vols   []*volume
}

// volume is a file of a pool. disk is set if it is a qcow2 disk.
type volume struct {
	pool *pool
	name string
	x    *libvirtxml.StorageVolume
	data []byte
	disk *qcow
}

func (v *volume) path() string { return v.pool.x.Target.Path + "/" + v.name }

func (v *volume) ref() libvirt.StorageVol {
	return libvirt.StorageVol{Pool: v.pool.name, Name: v.name, Key: v.path()}
}

func (p *pool) ref() libvirt.StoragePool { return libvirt.StoragePool{Name: p.name, UUID: p.uuid} }

func (p *pool) volumeNamed(name string) *volume {
	for _, v := range p.vols {
		if v.name == name {
			return v
		}
	}
	return nil
}

func (l *libvirtd) poolNamed(name string) *pool {
	for _, p := range l.pools {
		if p.name == name {
			return p
		}
	}
	return nil
}

func (l *libvirtd) pool(ref libvirt.StoragePool) (*pool, error) {
	if p := l.poolNamed(ref.Name); p != nil {
		return p, nil
	}
	return nil, fail(libvirt.ErrNoStoragePool, "Storage pool not found: no storage pool with matching name '%s'", ref.Name)
}

func (l *libvirtd) volume(ref libvirt.StorageVol) (*volume, error) {
	if p := l.poolNamed(ref.Pool); p != nil {
		if v := p.volumeNamed(ref.Name); v != nil {
			if v.disk != nil {
				v.data = v.disk.bytes()
			}
			return v, nil
		}
	}
	return nil, fail(libvirt.ErrNoStorageVol, "Storage volume not found: no storage vol with matching name '%s'", ref.Name)
}

func (l *libvirtd) volumeAt(path string) *volume {
	for _, p := range l.pools {
		for _, v := range p.vols {
			if v.path() == path {
				return v
			}
		}
	}
	return nil
}

// addVolume creates a volume from a definition.
func (l *libvirtd) addVolume(p *pool, text string) (*volume, error) {
	var x libvirtxml.StorageVolume
	if err := x.Unmarshal(text); err != nil {
		return nil, err
	}
	if p.volumeNamed(x.Name) != nil {
		return nil, fail(libvirt.ErrStorageVolExist, "storage volume '%s' exists already", x.Name)
	}
	v := &volume{pool: p, name: x.Name, x: &x}
	x.Target.Path = v.path()
	x.Target.Timestamps = &libvirtxml.StorageVolumeTargetTimestamps{Mtime: "1803888326.428050155"}
	x.Allocation = &libvirtxml.StorageVolumeSize{Unit: "bytes", Value: 196608}
	if x.Target.Format != nil && x.Target.Format.Type == "qcow2" && strings.HasSuffix(x.Name, ".qcow2") {
		v.disk = &qcow{capacity: x.Capacity.Value}
	}
	p.vols = append(p.vols, v)
	slices.SortFunc(p.vols, func(a, b *volume) int { return strings.Compare(a.name, b.name) })
	return v, nil
}

// uploaded notes the data of an upload: the files of a seed, or size and digest of an image.
func (l *libvirtd) uploaded(v *volume) {
	if strings.HasSuffix(v.name, ".seed") {
		l.note("upload volume "+v.name, seedText(v.data))
		return
	}
	l.note("upload volume "+v.name, fmt.Sprintf("%d bytes, sha256 %x", len(v.data), sha256.Sum256(v.data)))
}

func (l *libvirtd) withPool(ref libvirt.StoragePool, what string, f func(*pool) error) error {
	p, err := l.pool(ref)
	if err != nil {
		return err
	}
	if what != "" {
		l.note(what+" "+p.name, "")
	}
	return f(p)
}

func (l *libvirtd) poolCalls() {
	on(l, 281, func(libvirt.ConnectListAllStoragePoolsArgs) (r libvirt.ConnectListAllStoragePoolsRet, err error) {
		for _, p := range l.pools {
			r.Pools = append(r.Pools, p.ref())
		}
		r.Ret = uint32(len(r.Pools))
		return r, nil
	})
	on(l, 84, func(a libvirt.StoragePoolLookupByNameArgs) (r libvirt.StoragePoolLookupByNameRet, err error) {
		p, err := l.pool(libvirt.StoragePool{Name: a.Name})
		if err == nil {
			r.Pool = p.ref()
		}
		return r, err
	})
	on(l, 88, func(a libvirt.StoragePoolGetXMLDescArgs) (r libvirt.StoragePoolGetXMLDescRet, err error) {
		p, err := l.pool(a.Pool)
		if err == nil {
			r.XML, err = p.x.Marshal()
		}
		return r, err
	})
	on(l, 154, func(a libvirt.StoragePoolIsActiveArgs) (r libvirt.StoragePoolIsActiveRet, err error) {
		p, err := l.pool(a.Pool)
		if err == nil && p.active {
			r.Active = 1
		}
		return r, err
	})
	on(l, 83, func(a libvirt.StoragePoolRefreshArgs) (none, error) {
		return none{}, l.withPool(a.Pool, "", func(*pool) error { return nil })
	})
	on(l, 282, func(a libvirt.StoragePoolListAllVolumesArgs) (r libvirt.StoragePoolListAllVolumesRet, err error) {
		p, err := l.pool(a.Pool)
		if err != nil {
			return r, err
		}
		for _, v := range p.vols {
			r.Vols = append(r.Vols, v.ref())
		}
		r.Ret = uint32(len(r.Vols))
		return r, nil
	})
	on(l, 77, func(a libvirt.StoragePoolDefineXMLArgs) (r libvirt.StoragePoolDefineXMLRet, err error) {
		l.note("define pool", a.XML)
		var x libvirtxml.StoragePool
		if err := x.Unmarshal(a.XML); err != nil {
			return r, err
		}
		p := l.poolNamed(x.Name)
		if p == nil {
			p = &pool{name: x.Name, uuid: uuidOf("pool " + x.Name)}
			l.pools = append(l.pools, p)
		}
		x.UUID = uuidText(p.uuid)
		x.Available = &libvirtxml.StoragePoolSize{Unit: "bytes", Value: 248340447232}
		p.x = &x
		return libvirt.StoragePoolDefineXMLRet{Pool: p.ref()}, nil
	})
	on(l, 79, func(a libvirt.StoragePoolBuildArgs) (none, error) {
		return none{}, l.withPool(a.Pool, "build pool", func(*pool) error { return nil })
	})
	on(l, 78, func(a libvirt.StoragePoolCreateArgs) (none, error) {
		return none{}, l.withPool(a.Pool, "start pool", func(p *pool) error { p.active = true; return nil })
	})
	on(l, 80, func(a libvirt.StoragePoolDestroyArgs) (none, error) {
		return none{}, l.withPool(a.Pool, "stop pool", func(p *pool) error { p.active = false; return nil })
	})
	on(l, 81, func(a libvirt.StoragePoolDeleteArgs) (none, error) {
		return none{}, l.withPool(a.Pool, "delete pool", func(*pool) error { return nil })
	})
	on(l, 82, func(a libvirt.StoragePoolUndefineArgs) (none, error) {
		return none{}, l.withPool(a.Pool, "undefine pool", func(p *pool) error {
			l.pools = slices.DeleteFunc(l.pools, func(o *pool) bool { return o == p })
			return nil
		})
	})
	on(l, 90, func(a libvirt.StoragePoolSetAutostartArgs) (none, error) {
		return none{}, l.withPool(a.Pool, "", func(*pool) error { return nil })
	})
	on(l, 95, func(a libvirt.StorageVolLookupByNameArgs) (r libvirt.StorageVolLookupByNameRet, err error) {
		v, err := l.volume(libvirt.StorageVol{Pool: a.Pool.Name, Name: a.Name})
		if err == nil {
			r.Vol = v.ref()
		}
		return r, err
	})
	on(l, 97, func(a libvirt.StorageVolLookupByPathArgs) (r libvirt.StorageVolLookupByPathRet, err error) {
		if v := l.volumeAt(a.Path); v != nil {
			r.Vol = v.ref()
			return r, nil
		}
		return r, fail(libvirt.ErrNoStorageVol, "Storage volume not found: no storage vol with matching path '%s'", a.Path)
	})
	on(l, 99, func(a libvirt.StorageVolGetXMLDescArgs) (r libvirt.StorageVolGetXMLDescRet, err error) {
		v, err := l.volume(a.Vol)
		if err == nil {
			r.XML, err = v.x.Marshal()
		}
		return r, err
	})
	on(l, 98, func(a libvirt.StorageVolGetInfoArgs) (r libvirt.StorageVolGetInfoRet, err error) {
		v, err := l.volume(a.Vol)
		if err != nil {
			return r, err
		}
		r.Capacity, r.Allocation = uint64(len(v.data)), uint64(len(v.data))
		return r, nil
	})
	on(l, 93, func(a libvirt.StorageVolCreateXMLArgs) (r libvirt.StorageVolCreateXMLRet, err error) {
		p, err := l.pool(a.Pool)
		if err != nil {
			return r, err
		}
		v, err := l.addVolume(p, a.XML)
		l.note("make volume in "+p.name, a.XML)
		if err == nil {
			r.Vol = v.ref()
		}
		return r, err
	})
	on(l, 94, func(a libvirt.StorageVolDeleteArgs) (none, error) {
		v, err := l.volume(a.Vol)
		if err != nil {
			return none{}, err
		}
		l.note("delete volume "+v.name, "")
		v.pool.vols = slices.DeleteFunc(v.pool.vols, func(o *volume) bool { return o == v })
		return none{}, nil
	})
}
