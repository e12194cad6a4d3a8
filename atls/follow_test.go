package atls_test

import (
	"crypto/tls"
	"net"
	"slices"
	"testing"

	"github.com/ultravioletrs/cocos/atls"
)

// follower keeps the steps that it is told.
type follower struct {
	net.Conn
	steps []atls.Step
}

func (f *follower) Reached(s atls.Step) { f.steps = append(f.steps, s) }

// A server tells how far a client came, and no more.
func TestFollower(t *testing.T) {
	vm := newVM(t)
	id := identity(t)
	plain, attested := atls.ServerConfig{Identity: id}, atls.ServerConfig{Identity: id, Prover: proverOf(t, vm, 0)}
	// as is a client of this package.
	as := func(c atls.ClientConfig) func(net.Conn) error {
		creds, err := atls.Client(c)
		if err != nil {
			t.Fatal(err)
		}
		return func(raw net.Conn) error {
			_, _, err := creds.ClientHandshake(t.Context(), "agent", raw)
			return err
		}
	}
	for name, tt := range map[string]struct {
		server atls.ServerConfig
		client func(net.Conn) error
		want   []atls.Step
	}{
		"plain":        {plain, as(atls.ClientConfig{ServerKey: id.Key()}), []atls.Step{atls.Greeted, atls.Connected}},
		"attested":     {attested, as(atls.ClientConfig{Appraisal: vm.Appraisal()}), []atls.Step{atls.Greeted, atls.Waiting, atls.Appraising, atls.Connected}},
		"says nothing": {attested, func(raw net.Conn) error { return raw.Close() }, nil},
		"says half a word": {attested, func(raw net.Conn) error {
			_, err := raw.Write([]byte{22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3})
			_ = raw.Close()
			return err
		}, nil},
		"is of the other mode": {attested, as(atls.ClientConfig{ServerKey: id.Key()}), []atls.Step{atls.Greeted}},
		"says nothing in TLS": {attested, func(raw net.Conn) error {
			c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{atls.AttestedProtocol}})
			err := c.HandshakeContext(t.Context())
			_ = raw.Close()
			return err
		}, []atls.Step{atls.Greeted}},
		"refuses the evidence": {attested, as(atls.ClientConfig{Appraisal: newVM(t).Appraisal()}), []atls.Step{atls.Greeted, atls.Waiting, atls.Appraising}},
	} {
		t.Run(name, func(t *testing.T) {
			creds, err := atls.Server(tt.server)
			if err != nil {
				t.Fatal(err)
			}
			var f *follower
			_, _ = handshake(t, func(raw net.Conn) error {
				f = &follower{Conn: raw}
				_, _, err := creds.ServerHandshake(f)
				return err
			}, tt.client)
			if !slices.Equal(f.steps, tt.want) {
				t.Errorf("told %v, want %v", f.steps, tt.want)
			}
		})
	}
}
