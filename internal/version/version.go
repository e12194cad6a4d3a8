// Package version says which version a program is.
package version

import "runtime/debug"

// String is the module's version, with which Go stamps what it builds in a checkout:
// a tag, or time and commit of one; "devel" for programs built without it, as the
// guest image's agent is, whose bytes are the same from every checkout.
func String() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" || info.Main.Version == "(devel)" {
		return "devel"
	}
	return info.Main.Version
}
