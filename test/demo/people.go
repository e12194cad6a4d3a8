package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// people of the demo. Each has a folder that stands for a machine of their own.
func (d *demo) people() []string { return append([]string{"alice"}, d.providers()...) }

// providers are those who bring data.
func (d *demo) providers() []string {
	if len(d.example.carols) == 0 {
		return []string{"bob"}
	}
	return []string{"bob", "carol"}
}

// brings are the files of one of the providers.
func (d *demo) brings(who string) []string {
	if who == "carol" {
		return d.example.carols
	}
	return d.example.data
}

// others are the providers by their names, in a sentence.
func (d *demo) others() string {
	var names []string
	for _, who := range d.providers() {
		names = append(names, name(who))
	}
	return strings.Join(names, " and ")
}

func email(who string) string { return who + "@example.org" }

// name is what the service calls somebody.
func name(who string) string { return strings.ToUpper(who[:1]) + who[1:] }

func (d *demo) home(who string) []string { return []string{"COCOS_HOME=" + d.path(who)} }

func (d *demo) key(who string) string { return d.path(who + ".pem") }

// as runs cocos-cli for one of the people, to its end, and shows what it says.
func (d *demo) as(who string, args ...string) error {
	return d.do(d.home(who), append([]string{cli}, args...)...)
}

// ask is as, and returns the standard output, too.
func (d *demo) ask(who string, args ...string) (string, error) {
	var out bytes.Buffer
	cmd := d.command(d.ctx, d.home(who), append([]string{cli}, args...)...)
	cmd.Stdout, cmd.Stderr = io.MultiWriter(os.Stdout, &out), os.Stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: cocos-cli %s: %w", who, strings.Join(args, " "), err)
	}
	return strings.TrimSpace(out.String()), nil
}

// into is as with the standard output in a file.
func (d *demo) into(who, file string, args ...string) error {
	cmd := d.command(d.ctx, d.home(who), append([]string{cli}, args...)...)
	fmt.Printf("        > %s\n", file)
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = out, os.Stderr
	if err := errors.Join(cmd.Run(), out.Close()); err != nil {
		return fmt.Errorf("%s: cocos-cli %s: %w", who, strings.Join(args, " "), err)
	}
	return nil
}

// each runs commands of one of the people, one after the other.
func (d *demo) each(who string, commands ...[]string) error {
	for _, c := range commands {
		if err := d.as(who, c...); err != nil {
			return err
		}
	}
	return nil
}

// query asks with --json and shows nothing.
func (d *demo) query(ctx context.Context, who string, into any, args ...string) error {
	args = append(args, "--json")
	out, err := silent(ctx, d.home(who), append([]string{cli}, args...)...).Output()
	if err != nil {
		return fmt.Errorf("%s: cocos-cli %s: %w", who, strings.Join(args, " "), err)
	}
	if err := json.Unmarshal(out, into); err != nil {
		return fmt.Errorf("reading what cocos-cli %s says: %w", strings.Join(args, " "), err)
	}
	return nil
}

// login signs somebody in for the first time, with a link, and sets a password
// that this demo has made up.
func (d *demo) login(who, link string, more ...string) error {
	file := d.path(who + ".password")
	password := rand.Text()
	if d.passwords == nil {
		d.passwords = map[string]string{}
	}
	d.passwords[who] = password
	if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
		return err
	}
	return d.as(who, append([]string{"login", link, "--grpc", d.grpc, "--fingerprint", d.fingerprint,
		"--name", name(who), "--password-file", file}, more...)...)
}
