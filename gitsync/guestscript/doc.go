// Package guestscript has the scripts that the user of a guest runs in a clone.
//
// They are for a POSIX sh; $1 is the clone. Statuses from 100 on are answers,
// others are failures. What a script prints is bounded there and hostile here.
package guestscript
