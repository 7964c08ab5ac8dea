// Package pull merges what was fetched into the checked-out branch: it lists the files that change,
// which of them the host would run or obey, and fast-forwards.
package pull
