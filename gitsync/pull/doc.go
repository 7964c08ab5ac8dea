// Package pull takes what was fetched over into the branch that is checked out:
// it lists the files that change and what of them this machine would run or obey,
// and fast-forwards.
package pull
