package share

import "errors"

// A FolderError is an error of one folder; the work on the other folders continues.
type FolderError struct {
	Folder string // its HostPath
	Err    error
}

func (e *FolderError) Error() string { return e.Err.Error() }
func (e *FolderError) Unwrap() error { return e.Err }

// Split splits a joined error into the errors of single folders, by HostPath, and the
// rest, which concerns all of them.
func Split(err error) (each map[string]error, rest error) {
	each = map[string]error{}
	var walk func(error)
	walk = func(err error) {
		if err == nil {
			return
		}
		if fe := new(FolderError); asFolder(err, &fe) {
			each[fe.Folder] = errors.Join(each[fe.Folder], fe.Err)
			return
		}
		if l, ok := err.(interface{ Unwrap() []error }); ok {
			for _, e := range l.Unwrap() {
				walk(e)
			}
			return
		}
		rest = errors.Join(rest, err)
	}
	walk(err)
	for k, e := range each {
		// A single error keeps its type and its hints.
		if l, ok := e.(interface{ Unwrap() []error }); ok && len(l.Unwrap()) == 1 {
			each[k] = l.Unwrap()[0]
		}
	}
	return each, rest
}

// asFolder works like errors.As but does not unwrap joined errors, whose parts may
// concern different folders.
func asFolder(err error, to **FolderError) bool {
	for err != nil {
		if fe, ok := err.(*FolderError); ok {
			*to = fe
			return true
		}
		err = errors.Unwrap(err)
	}
	return false
}

// ErrLink is wrapped by the error of a folder whose path now goes through a symbolic
// link, although it did not when the folder was attached.
var ErrLink = errors.New("the path goes through a symbolic link")

// kindError is a message that errors.Is reports as kind.
type kindError struct {
	text string
	kind error
}

func (b *kindError) Error() string { return b.text }
func (b *kindError) Unwrap() error { return b.kind }

// Check reports whether an attachment, as the config records it, is valid.
func Check(a Attachment) error { return check([]Attachment{a}) }
