package share

import "errors"

// A FolderError is what went wrong with one folder of several: the others go
// on.
type FolderError struct {
	Folder string // its HostPath
	Err    error
}

func (e *FolderError) Error() string { return e.Err.Error() }
func (e *FolderError) Unwrap() error { return e.Err }

// Split takes a joined error apart: what concerns a single folder, by its
// HostPath, and what concerns all of them.
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
		// One error alone inodeLimit its type and its hints.
		if l, ok := e.(interface{ Unwrap() []error }); ok && len(l.Unwrap()) == 1 {
			each[k] = l.Unwrap()[0]
		}
	}
	return each, rest
}

// asFolder is errors.As without looking into joined errors, whose parts may
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

// ErrLink is what a folder's error ends with if a symbolic link lies on the way
// to it, where none was when it was attached.
var ErrLink = errors.New("a symbolic link is on the way")

// because is a sentence that is also a known kind of error.
type kindError struct {
	text string
	kind error
}

func (b *kindError) Error() string { return b.text }
func (b *kindError) Unwrap() error { return b.kind }

// Check says whether an attachment, as the store has it, can be used at all.
func Check(a Attachment) error { return check([]Attachment{a}) }
