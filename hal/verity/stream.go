package verity

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
)

// gathered is how many hash blocks of a level are written at once.
const gathered = 16

// Tree builds the hash tree of data that passes by once, in order: each hash block
// is written to its place as soon as it is full. It holds less than gathered
// blocks of each level, whatever the size, and never reads. Use NewTree, write all
// of the data, and then Finish.
type Tree struct {
	p      Params
	w      io.WriterAt
	hash   hash.Hash
	levels []*level // from the one above the data to the topmost
	block  []byte   // the data block that is not full yet
	blocks uint64   // of data that were hashed
}

// level is one level of a tree, as far as it isn't written.
type level struct {
	at   int64 // where buf belongs
	buf  []byte
	done int // bytes of buf that were hashed
}

// NewTree is the tree of so many blocks of data with this salt. Its hash blocks go
// to w at their offsets from the beginning of the data, where Params.Target has
// them, so that data and tree are Params.Size long.
func NewTree(w io.WriterAt, dataBlocks uint64, salt [32]byte) (*Tree, error) {
	if dataBlocks == 0 || dataBlocks > maxDataBlocks {
		return nil, fmt.Errorf("building a hash tree: %d blocks of data: want 1 to %d", dataBlocks, maxDataBlocks)
	}
	t := &Tree{p: Params{Salt: salt, DataBlocks: dataBlocks}, w: w, hash: sha256.New(), block: make([]byte, 0, BlockSize)}
	at := t.p.Size() // levels lie with the topmost first
	for _, n := range levels(dataBlocks) {
		at -= int64(n) * BlockSize
		t.levels = append(t.levels, &level{at: at, buf: make([]byte, 0, min(n, gathered)*BlockSize)})
	}
	return t, nil
}

// Write takes more of the data. An error is w's, and the tree of no use any more.
func (t *Tree) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		if t.blocks == t.p.DataBlocks {
			return n - len(b), fmt.Errorf("building a hash tree: there are more than %d blocks of data", t.p.DataBlocks)
		}
		block := b[:min(len(b), BlockSize)]
		if len(t.block) > 0 || len(block) < BlockSize {
			block = block[:min(len(block), BlockSize-len(t.block))]
			t.block = append(t.block, block...)
			if b = b[len(block):]; len(t.block) < BlockSize {
				break
			}
			block = t.block
			t.block = t.block[:0]
		} else {
			b = b[BlockSize:]
		}
		t.blocks++
		if err := t.add(0, t.sum(block)); err != nil {
			return n - len(b), err
		}
	}
	return n, nil
}

func (t *Tree) sum(block []byte) [sha256.Size]byte {
	var sum [sha256.Size]byte
	t.hash.Reset()
	t.hash.Write(t.p.Salt[:])
	t.hash.Write(block)
	t.hash.Sum(sum[:0])
	return sum
}

// add puts the hash of a block below into a level.
func (t *Tree) add(i int, sum [sha256.Size]byte) error {
	if i == len(t.levels) {
		t.p.RootHash = sum
		return nil
	}
	l := t.levels[i]
	l.buf = append(l.buf, sum[:]...)
	if len(l.buf)-l.done == BlockSize {
		return t.close(i)
	}
	return nil
}

// close ends the block of a level that is being filled.
func (t *Tree) close(i int) error {
	l := t.levels[i]
	block := l.buf[l.done:]
	l.done = len(l.buf)
	sum := t.sum(block)
	if l.done == cap(l.buf) {
		if err := t.flush(l); err != nil {
			return err
		}
	}
	return t.add(i+1, sum)
}

func (t *Tree) flush(l *level) error {
	if len(l.buf) == 0 {
		return nil
	}
	if _, err := t.w.WriteAt(l.buf, l.at); err != nil {
		return fmt.Errorf("writing a hash tree: %w", err)
	}
	l.at += int64(len(l.buf))
	l.buf, l.done = l.buf[:0], 0
	return nil
}

// Finish writes what is left of the tree, and returns what the data is checked
// with.
func (t *Tree) Finish() (Params, error) {
	if t.blocks != t.p.DataBlocks || len(t.block) > 0 {
		return Params{}, errors.New("building a hash tree: the data is not all there")
	}
	for i, l := range t.levels {
		if rest := (len(l.buf) - l.done) % BlockSize; rest != 0 {
			l.buf = append(l.buf, make([]byte, BlockSize-rest)...)
			if err := t.close(i); err != nil {
				return Params{}, err
			}
		}
		if err := t.flush(l); err != nil {
			return Params{}, err
		}
	}
	return t.p, nil
}
