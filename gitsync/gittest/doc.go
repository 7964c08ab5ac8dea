// Package gittest has helpers for the tests below gitsync: running git, writing files, comparing.
package gittest
