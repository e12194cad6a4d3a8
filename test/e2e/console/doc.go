// Package console holds the tests of the web console in a real browser: three
// people from their invitations to the receipt, every page in light, dark and on
// a phone, held to what axe knows of accessibility.
package console
