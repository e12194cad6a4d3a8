package main

import (
	"fmt"
	"io"
	"strings"
)

const envHead = `# Configuration of cocos-manager(8). One NAME=VALUE per line; a line that begins
# with '#' is a comment. Every variable stands here with its default: to change
# one, remove the '#' before its name. Restart the Manager afterwards: its VMs
# go on.
`

// writeEnvFile writes the text of a cocos-manager.env in which nothing is set.
func writeEnvFile(w io.Writer) error {
	var b strings.Builder
	b.WriteString(envHead)
	for _, v := range variables() {
		b.WriteByte('\n')
		kind := v.accepts()
		if v.emulated != "" {
			kind += "; where VMs are emulated the default is " + v.emulated
		}
		for _, line := range wrap(strings.ReplaceAll(v.effect, "`", "")+" ("+kind+")", 78) {
			fmt.Fprintf(&b, "# %s\n", line)
		}
		fmt.Fprintf(&b, "#%s=%s\n", v.name, v.fallback)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// wrap breaks text into lines of at most width bytes, where words allow it.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}
