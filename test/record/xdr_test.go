package record

import (
	"encoding/binary"
	"fmt"
	"reflect"
)

// libvirt's RPC uses XDR (RFC 4506). go-libvirt exports structs for the arguments and results of all
// calls, so encoding and decoding walk over the fields of these structs.

func pad(n int) int { return (4 - n%4) % 4 }

func encodeXDR(b []byte, v reflect.Value) []byte {
	switch v.Kind() {
	case reflect.Int8, reflect.Int16, reflect.Int32:
		return binary.BigEndian.AppendUint32(b, uint32(v.Int()))
	case reflect.Uint8, reflect.Uint16, reflect.Uint32:
		return binary.BigEndian.AppendUint32(b, uint32(v.Uint()))
	case reflect.Int64:
		return binary.BigEndian.AppendUint64(b, uint64(v.Int()))
	case reflect.Uint64:
		return binary.BigEndian.AppendUint64(b, v.Uint())
	case reflect.String:
		b = binary.BigEndian.AppendUint32(b, uint32(v.Len()))
		b = append(b, v.String()...)
		return append(b, make([]byte, pad(v.Len()))...)
	case reflect.Slice:
		b = binary.BigEndian.AppendUint32(b, uint32(v.Len()))
		for i := range v.Len() {
			b = encodeXDR(b, v.Index(i))
		}
		return b
	case reflect.Array:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			for i := range v.Len() {
				b = append(b, byte(v.Index(i).Uint()))
			}
			return append(b, make([]byte, pad(v.Len()))...)
		}
		for i := range v.Len() {
			b = encodeXDR(b, v.Index(i))
		}
		return b
	case reflect.Struct:
		for i := range v.NumField() {
			b = encodeXDR(b, v.Field(i))
		}
		return b
	}
	panic(fmt.Sprintf("encoding %s", v.Type()))
}

func decodeXDR(b []byte, v reflect.Value) ([]byte, error) {
	need := func(n int) error {
		if len(b) < n {
			return fmt.Errorf("decoding %s: %d bytes are missing", v.Type(), n-len(b))
		}
		return nil
	}
	switch v.Kind() {
	case reflect.Int8, reflect.Int16, reflect.Int32:
		if err := need(4); err != nil {
			return nil, err
		}
		v.SetInt(int64(int32(binary.BigEndian.Uint32(b))))
		return b[4:], nil
	case reflect.Uint8, reflect.Uint16, reflect.Uint32:
		if err := need(4); err != nil {
			return nil, err
		}
		v.SetUint(uint64(binary.BigEndian.Uint32(b)))
		return b[4:], nil
	case reflect.Int64:
		if err := need(8); err != nil {
			return nil, err
		}
		v.SetInt(int64(binary.BigEndian.Uint64(b)))
		return b[8:], nil
	case reflect.Uint64:
		if err := need(8); err != nil {
			return nil, err
		}
		v.SetUint(binary.BigEndian.Uint64(b))
		return b[8:], nil
	case reflect.String:
		if err := need(4); err != nil {
			return nil, err
		}
		n := int(binary.BigEndian.Uint32(b))
		b = b[4:]
		if err := need(n + pad(n)); err != nil {
			return nil, err
		}
		v.SetString(string(b[:n]))
		return b[n+pad(n):], nil
	case reflect.Slice:
		if err := need(4); err != nil {
			return nil, err
		}
		n := int(binary.BigEndian.Uint32(b))
		b = b[4:]
		v.Set(reflect.MakeSlice(v.Type(), 0, 0))
		for range n {
			e := reflect.New(v.Type().Elem()).Elem()
			var err error
			if b, err = decodeXDR(b, e); err != nil {
				return nil, err
			}
			v.Set(reflect.Append(v, e))
		}
		return b, nil
	case reflect.Array: // of bytes only
		n := v.Len()
		if err := need(n + pad(n)); err != nil {
			return nil, err
		}
		for i := range n {
			v.Index(i).SetUint(uint64(b[i]))
		}
		return b[n+pad(n):], nil
	case reflect.Struct:
		for i := range v.NumField() {
			var err error
			if b, err = decodeXDR(b, v.Field(i)); err != nil {
				return nil, err
			}
		}
		return b, nil
	}
	return nil, fmt.Errorf("decoding %s", v.Type())
}
