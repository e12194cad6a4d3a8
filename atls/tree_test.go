package atls

import (
	"slices"
	"testing"
)

// rfc6962 is the definition of the specification, section 2.1.
func rfc6962(leaves []hash) hash {
	if len(leaves) == 1 {
		return leaves[0]
	}
	k := 1
	for k*2 < len(leaves) {
		k *= 2
	}
	return node(rfc6962(leaves[:k]), rfc6962(leaves[k:]))
}

// Each leaf of a tree has a proof, good for it and for nothing else.
func TestTree(t *testing.T) {
	for size := 1; size <= 70; size++ {
		var leaves []hash
		for i := range size {
			leaves = append(leaves, leafOf(server, [ExporterSize]byte{byte(i)}, hash{}, [nonceSize]byte{}))
		}
		tree := newTree(slices.Clone(leaves))
		if tree.root() != rfc6962(leaves) {
			t.Fatalf("%d leaves: not the specification's root", size)
		}
		for i, leaf := range leaves {
			p := tree.proof(i)
			if p.root(leaf) != tree.root() {
				t.Fatalf("leaf %d of %d: its proof leads elsewhere", i, size)
			}
			if other := leaves[(i+1)%size]; size > 1 && p.root(other) == tree.root() {
				t.Fatalf("leaf %d of %d: its proof is good for another", i, size)
			}
			for j := range p.siblings {
				bent := proof{p.path, slices.Clone(p.siblings)}
				bent.siblings[j][0] ^= 1
				turned := proof{p.path ^ 1<<j, p.siblings}
				cut := proof{p.path, p.siblings[:j]}
				for name, q := range map[string]proof{"bent": bent, "turned": turned, "cut": cut} {
					if q.root(leaf) == tree.root() {
						t.Fatalf("leaf %d of %d: a proof %s at %d is good", i, size, name, j)
					}
				}
			}
		}
	}
	if n := len(newTree(make([]hash, maxBatch)).proof(maxBatch - 1).siblings); n != maxDepth {
		t.Errorf("a full tree has proofs of %d hashes; want %d", n, maxDepth)
	}
}

// Leaves, nodes and the cached report's root can't be taken for each other, and
// each field of a leaf counts.
func TestHashesAreToldApart(t *testing.T) {
	seen := map[hash]string{}
	add := func(name string, h hash) {
		if other, ok := seen[h]; ok {
			t.Errorf("%s is %s", name, other)
		}
		seen[h] = name
	}
	add("cached", cachedRoot)
	add("client", leafOf(client, [ExporterSize]byte{}, hash{}, [nonceSize]byte{}))
	add("server", leafOf(server, [ExporterSize]byte{}, hash{}, [nonceSize]byte{}))
	add("exporter", leafOf(server, [ExporterSize]byte{1}, hash{}, [nonceSize]byte{}))
	add("key", leafOf(server, [ExporterSize]byte{}, hash{1}, [nonceSize]byte{}))
	add("nonce", leafOf(server, [ExporterSize]byte{}, hash{}, [nonceSize]byte{1}))
	add("node", node(hash{}, hash{}))
	add("left", node(hash{1}, hash{}))
	add("right", node(hash{}, hash{1}))
}
