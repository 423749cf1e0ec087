//! Blocks with one owner.

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use super::Payload;
use super::block::Block;
use crate::io::memory::MemoryKind;

/// A block that one owner fills and empties: a handle of 8 bytes, as is an `Option` of it.
///
/// Its contents are the bytes that it derefs to; behind them is [`Buffer::spare`] room.
pub struct Buffer(pub(super) NonNull<Block>);

// SAFETY: a buffer is the only handle to its block; giving the block back is atomic.
unsafe impl Send for Buffer {}
// SAFETY: a shared buffer only lets its bytes be read.
unsafe impl Sync for Buffer {}

impl Buffer {
    fn header(&self) -> &Block {
        // SAFETY: the block lives as long as its handle.
        unsafe { self.0.as_ref() }
    }

    fn header_mut(&mut self) -> &mut Block {
        // SAFETY: a buffer is the only handle to its block.
        unsafe { self.0.as_mut() }
    }

    /// All the bytes of the block.
    fn whole(&mut self) -> &mut [u8] {
        let (start, len) = (Block::bytes(self.0), self.header().capacity);
        // SAFETY: so many bytes are behind the header; they were zeroed at first, and this is their only user.
        unsafe { std::slice::from_raw_parts_mut(start, len) }
    }

    pub(super) fn kind(&self) -> MemoryKind {
        MemoryKind::from_index(self.header().kind)
    }

    pub(super) fn move_to_front(&mut self) {
        let (start, end) = (self.header().start as usize, self.header().end as usize);
        self.whole().copy_within(start..end, 0);
        let header = self.header_mut();
        (header.start, header.end) = (0, header.end - header.start);
    }

    /// How many bytes the block holds.
    pub fn capacity(&self) -> usize {
        self.header().capacity
    }

    /// The room behind the contents. What lies in it is of no meaning.
    pub fn spare(&mut self) -> &mut [u8] {
        let end = self.header().end as usize;
        &mut self.whole()[end..]
    }

    /// Adds the first `len` bytes of the room to the contents.
    ///
    /// # Panics
    ///
    /// If there is less room.
    pub fn fill(&mut self, len: usize) {
        assert!(
            len <= self.spare().len(),
            "no more than the room can be filled"
        );
        // A block is at most u32::MAX bytes long.
        self.header_mut().end += len as u32;
    }

    /// Adds as much of `bytes` to the contents as there is room for; how much that was.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        let spare = self.spare();
        let len = spare.len().min(bytes.len());
        spare[..len].copy_from_slice(&bytes[..len]);
        self.fill(len);
        len
    }

    /// Takes the first `len` bytes away from the contents.
    ///
    /// # Panics
    ///
    /// If there are fewer.
    pub fn consume(&mut self, len: usize) {
        assert!(
            len <= self.len(),
            "no more than the contents can be consumed"
        );
        let header = self.header_mut();
        header.start += len as u32;
        if header.start == header.end {
            (header.start, header.end) = (0, 0);
        }
    }

    /// Cuts the contents to their first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        let len = len.min(self.len()) as u32;
        let header = self.header_mut();
        header.end = header.start + len;
    }

    /// Makes the contents unchangeable and shareable, without copying them.
    pub fn freeze(self) -> Payload {
        let header = self.header();
        let (start, len) = (header.start, header.end - header.start);
        let block = self.0;
        std::mem::forget(self);
        Payload { block, start, len }
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        let header = self.header();
        let len = (header.end - header.start) as usize;
        // SAFETY: the contents lie within the block, which was zeroed at first.
        unsafe { std::slice::from_raw_parts(Block::bytes(self.0).add(header.start as usize), len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        let contents = self.header().start as usize..self.header().end as usize;
        &mut self.whole()[contents]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: this was the only handle.
        unsafe { Block::give_back(self.0) };
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} of {} bytes)", self.len(), self.capacity())
    }
}
