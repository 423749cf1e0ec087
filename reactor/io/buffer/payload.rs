//! Blocks with any number of readers.

use std::ops::{Deref, Range};
use std::ptr::{self, NonNull};
use std::sync::atomic::Ordering;

use super::block::{Block, FOREIGN, Foreign, UNPOOLED};

/// References to one block at most; far beyond what memory has room for.
const REFERENCES_MAX: u32 = u32::MAX / 2;

/// Bytes that never change again, shared by any number of handles of 16 bytes on any threads.
///
/// Clones and slices cost one atomic addition. They all keep the whole block, so a small part of a large one that is
/// kept for long is better copied.
pub struct Payload {
    pub(super) block: NonNull<Block>,
    pub(super) start: u32,
    pub(super) len: u32,
}

// SAFETY: the bytes are only read as long as there are handles, and the count of those is atomic.
unsafe impl Send for Payload {}
// SAFETY: as above.
unsafe impl Sync for Payload {}

impl Payload {
    /// A copy of `bytes` outside of any pool and budget, for threads that have no core. The first 4 GiB of it.
    pub fn copy_of(bytes: &[u8]) -> Payload {
        let bytes = &bytes[..bytes.len().min(u32::MAX as usize)];
        let block = Block::allocate_raw(UNPOOLED, bytes.len(), ptr::null(), false);
        // SAFETY: the block has been allocated for as many bytes.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), Block::bytes(block), bytes.len()) };
        Payload {
            block,
            start: 0,
            len: bytes.len() as u32,
        }
    }

    /// A part of it, which keeps the whole.
    ///
    /// # Panics
    ///
    /// If the range reaches beyond the bytes.
    pub fn slice(&self, range: Range<usize>) -> Payload {
        assert!(
            range.start <= range.end && range.end <= self.len(),
            "a slice lies within its payload"
        );
        let mut part = self.clone();
        part.start += range.start as u32;
        part.len = (range.end - range.start) as u32;
        part
    }
}

impl From<Vec<u8>> for Payload {
    /// Takes the vector's memory over, outside of any pool and budget. The first 4 GiB of it.
    fn from(bytes: Vec<u8>) -> Payload {
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let block = Block::allocate_raw(FOREIGN, size_of::<Foreign>(), ptr::null(), false);
        // SAFETY: the block has been allocated for a vector, whose alignment is that of the header.
        unsafe { block.add(1).cast::<Foreign>().write(bytes) };
        Payload {
            block,
            start: 0,
            len,
        }
    }
}

const _: () = assert!(align_of::<Foreign>() <= align_of::<Block>());

impl Deref for Payload {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the range lies within the block's bytes, which are initialised and never written while there are
        // handles.
        unsafe {
            let start = Block::bytes(self.block).add(self.start as usize);
            std::slice::from_raw_parts(start, self.len as usize)
        }
    }
}

impl Clone for Payload {
    fn clone(&self) -> Payload {
        // SAFETY: the block lives as long as this handle.
        let before = unsafe { self.block.as_ref() }
            .references
            .fetch_add(1, Ordering::Relaxed);
        if before > REFERENCES_MAX {
            // As `Arc` does: a count that wraps would free what is in use.
            std::process::abort();
        }
        Payload {
            block: self.block,
            start: self.start,
            len: self.len,
        }
    }
}

impl Drop for Payload {
    fn drop(&mut self) {
        // SAFETY: the block lives as long as this handle.
        let references = unsafe { &self.block.as_ref().references };
        // With a single handle nobody can add one meanwhile.
        if references.load(Ordering::Acquire) != 1 {
            if references.fetch_sub(1, Ordering::Release) != 1 {
                return;
            }
            // What the other handles read happened before the block is used again.
            references.load(Ordering::Acquire);
        }
        // SAFETY: this was the last handle.
        unsafe { Block::give_back(self.block) };
    }
}

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Payload) -> bool {
        **self == **other
    }
}

impl Eq for Payload {}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Payload({} bytes)", self.len)
    }
}
