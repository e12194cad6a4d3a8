package main

import "io"

const envHead = `# Configuration of cocos-manager(8). One NAME=VALUE per line; a line that begins
# with '#' is a comment. Every variable stands here with its default: to change
# one, remove the '#' before its name. Restart the Manager afterwards: its VMs
# go on.
`

// writeEnvFile writes the text of a cocos-manager.env in which nothing is set.
func writeEnvFile(w io.Writer) error { return table().WriteFile(w, envHead) }
