package erofs

import (
	"bufio"
	"io"
)

// writeMeta writes the blocks before the files' content: struct
// erofs_super_block, the inodes (struct erofs_inode_extended) in the order of
// p.nodes, and the folders' entries (struct erofs_dirent).
func (p *Plan) writeMeta(w io.Writer) error {
	out := bufio.NewWriterSize(w, 16*BlockSize)
	head := make([]byte, inodesOffset)
	super := head[superOffset:]
	order.PutUint32(super[0:], magic)
	super[12] = blockBits
	order.PutUint16(super[14:], firstNID) // root_nid
	order.PutUint64(super[16:], uint64(len(p.nodes)))
	order.PutUint32(super[36:], uint32(p.total))
	// meta_blkaddr is 0: inodes are numbered from the beginning. No feature that
	// a reader must know is used.
	_, err := out.Write(head)
	if err != nil {
		return err
	}
	var inode [inodeSize]byte
	for _, n := range p.nodes {
		n.encode(&inode)
		if _, err := out.Write(inode[:]); err != nil {
			return err
		}
	}
	if err := pad(out, inodesOffset+len(p.nodes)*inodeSize); err != nil {
		return err
	}
	for _, n := range p.nodes {
		if !n.folder {
			continue
		}
		if err := n.writeEntries(out); err != nil {
			return err
		}
	}
	return out.Flush()
}

func pad(w io.Writer, written int) error {
	_, err := w.Write(make([]byte, -written&(BlockSize-1)))
	return err
}

func (n *node) encode(b *[inodeSize]byte) {
	clear(b[:])
	links := uint32(1)
	if n.folder {
		links = 2
		for _, e := range n.entries {
			if e.folder {
				links++
			}
		}
	}
	block := uint32(n.block)
	if n.size == 0 {
		block = noBlock
	}
	order.PutUint16(b[0:], extendedFlat)
	order.PutUint16(b[4:], n.mode)
	order.PutUint64(b[8:], uint64(n.size))
	order.PutUint32(b[16:], block)
	order.PutUint32(b[20:], uint32(n.index)+1) // i_ino, for readers of 32 bits
	order.PutUint32(b[44:], links)
}

func (n *node) writeEntries(w io.Writer) error {
	blocks, _ := blocksOf(n.dirents())
	for _, entries := range blocks {
		block := make([]byte, 0, BlockSize)
		at := len(entries) * direntSize
		for _, e := range entries {
			kind := byte(typeFile)
			if e.to.folder {
				kind = typeFolder
			}
			block = order.AppendUint64(block, e.to.nid())
			block = order.AppendUint16(block, uint16(at))
			block = append(block, kind, 0)
			at += len(e.name)
		}
		for _, e := range entries {
			block = append(block, e.name...)
		}
		if _, err := w.Write(block[:BlockSize]); err != nil { // what is behind the names is zero
			return err
		}
	}
	return nil
}
