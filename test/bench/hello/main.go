// Command hello is the smallest algorithm: it says that it has started.
package main

import "fmt"

func main() { fmt.Println("started") }
