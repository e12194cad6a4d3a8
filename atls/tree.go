package atls

import (
	"crypto/sha256"
	"encoding/binary"
)

// The first byte of what is hashed separates leaves from inner nodes, as in RFC
// 6962, section 2.1, and both from the root of a report that covers no
// connection.
const (
	leafTag   = 0
	nodeTag   = 1
	cachedTag = 2
)

type hash = [sha256.Size]byte

// role in TLS.
type role byte

const (
	client role = 1
	server role = 2
	// brokerClient asks a key broker; it is none in TLS, and no hello has it.
	brokerClient role = 3
)

func (r role) String() string {
	switch r {
	case client:
		return "client"
	case server:
		return "server"
	}
	return "unknown"
}

const leafLabel = "cocos/v1/atls/connection"

// leafOf is what an attester says of one connection, all of which its verifier
// knows by itself: the attester's role in TLS, the exporter value, the SHA-256 of
// the attester's TLS key, and the verifier's nonce.
func leafOf(attester role, exporter [ExporterSize]byte, spki hash, nonce [nonceSize]byte) hash {
	b := []byte{leafTag}
	for _, f := range [][]byte{[]byte(leafLabel), {byte(attester)}, exporter[:], spki[:], nonce[:]} {
		b = binary.BigEndian.AppendUint64(b, uint64(len(f)))
		b = append(b, f...)
	}
	return sha256.Sum256(b)
}

// cachedRoot stands in a report that vouches for an instance key alone. It is
// the root of no tree.
var cachedRoot = sha256.Sum256([]byte{cachedTag})

func node(left, right hash) hash {
	var b [1 + 2*sha256.Size]byte
	b[0] = nodeTag
	copy(b[1:], left[:])
	copy(b[1+sha256.Size:], right[:])
	return sha256.Sum256(b[:])
}

// tree holds the levels of a Merkle tree, leaves first, root last. Its shape is
// that of RFC 6962, section 2.1: a node without a sibling goes up as it is.
type tree [][]hash

// newTree wants at least one leaf.
func newTree(leaves []hash) tree {
	t := tree{leaves}
	for level := leaves; len(level) > 1; {
		up := make([]hash, 0, (len(level)+1)/2)
		for i := 0; i+1 < len(level); i += 2 {
			up = append(up, node(level[i], level[i+1]))
		}
		if len(level)%2 == 1 {
			up = append(up, level[len(level)-1])
		}
		t = append(t, up)
		level = up
	}
	return t
}

func (t tree) root() hash { return t[len(t)-1][0] }

// proof leads from a leaf to the root: the siblings on the way, and in bit i of
// path whether sibling i is on the left.
type proof struct {
	path     uint32
	siblings []hash
}

func (t tree) proof(leaf int) proof {
	var p proof
	for _, level := range t[:len(t)-1] {
		if sibling := leaf ^ 1; sibling < len(level) {
			p.path |= uint32(leaf&1) << len(p.siblings)
			p.siblings = append(p.siblings, level[sibling])
		}
		leaf /= 2
	}
	return p
}

func (p proof) root(leaf hash) hash {
	for i, sibling := range p.siblings {
		if p.path>>i&1 == 1 {
			leaf = node(sibling, leaf)
		} else {
			leaf = node(leaf, sibling)
		}
	}
	return leaf
}
