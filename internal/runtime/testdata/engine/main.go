// Engine runs WebAssembly modules for the tests: those may be built for the race
// detector, and are then no static program.
package main

import "github.com/ultravioletrs/cocos/internal/runtime/wasm"

func main() { wasm.Main() }
