// Package textedit changes the command line of a text editor so that the command ends only when the
// user is done with the file.
//
// It contains the table of editors that return at once unless a flag tells them to wait, the parser
// for $EDITOR, and the search for processes that still use a file. It runs no program and writes
// nothing.
//
// Invariants: a line that cannot be parsed is returned unchanged; a flag is inserted directly after
// the program's name; existing flags stay, except those that mean "do not wait".
package textedit
