// Package textedit starts text editors so that they end when the person is done
// with the file.
//
// It owns the table of editors that return at once unless a flag tells them to
// wait, the reading of $EDITOR as far as that needs, and the search for
// processes that still have a file. It runs no program and writes nothing.
//
// Invariants: a line that is not understood is returned as it is; a flag is put
// behind the program's name and nowhere else; flags that are there stay, but
// those that say "do not wait".
package textedit
