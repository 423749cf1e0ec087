//! The blocks behind the handles, and the stack on which they come home.

use std::alloc::{self, Layout};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};

use crate::io::memory::{MemoryBudget, MemoryKind};

/// Bytes by which a block is longer than its power of two, so that a frame of 16 KiB with length and tag fits the
/// block of 16 KiB.
pub(super) const FRAMING: usize = 64;
/// The shortest block holds 2^7 bytes and the framing.
pub(super) const SHORTEST_BITS: u32 = 7;
pub(super) const CLASSES: usize = 10;
/// The longest pooled block: 64 KiB and the framing. Longer ones are allocated as long as asked for, and freed where
/// they are dropped.
pub const POOLED_MAX: usize = (1 << (SHORTEST_BITS as usize + CLASSES - 1)) + FRAMING;
pub(super) const UNPOOLED: u8 = CLASSES as u8;
pub(super) const FOREIGN: u8 = UNPOOLED + 1;

/// What stands before the bytes of a block.
#[repr(C)]
pub(super) struct Block {
    pub(super) references: AtomicU32,
    pub(super) class: u8,
    pub(super) kind: u8,
    /// Bytes behind the header.
    pub(super) capacity: usize,
    /// Contents of a [`Buffer`]; a [`Payload`] has its own bounds.
    pub(super) start: u32,
    pub(super) end: u32,
    /// The block holds one count of its home, as long as it exists. Null for what has none.
    pub(super) home: *const Home,
    /// The next block on the stack of the home.
    pub(super) following: *mut Block,
}

/// What stands behind a header instead of bytes when somebody else's allocation was taken over.
pub(super) type Foreign = Vec<u8>;

/// What is known of a pool to those who give blocks back.
pub(super) struct Home {
    /// Blocks that came back, linked; or [`closed`] while the pool wants none. They count as used until the pool has
    /// collected them, so the budget bounds them.
    pub(super) returned: AtomicPtr<Block>,
    /// Bytes of blocks that were freed instead since the pool last looked.
    pub(super) freed_bytes: AtomicUsize,
    pub(super) budget: Arc<MemoryBudget>,
}

/// Stands for a stack that takes nothing: an address that no block has.
pub(super) fn closed() -> *mut Block {
    ptr::without_provenance_mut(1)
}

/// The class whose blocks hold `capacity` bytes; `None` beyond [`POOLED_MAX`].
pub(super) fn class_for(capacity: usize) -> Option<usize> {
    let rounded = capacity
        .saturating_sub(FRAMING)
        .max(1)
        .checked_next_power_of_two()?;
    let class = rounded.trailing_zeros().saturating_sub(SHORTEST_BITS) as usize;
    (class < CLASSES).then_some(class)
}

pub(super) fn class_capacity(class: usize) -> usize {
    (1 << (SHORTEST_BITS as usize + class)) + FRAMING
}

impl Block {
    pub(super) fn allocate(class: u8, capacity: usize, home: &Arc<Home>) -> NonNull<Block> {
        // Zeroed, so that all of a buffer's room can be shown as bytes.
        Block::allocate_raw(class, capacity, Arc::into_raw(Arc::clone(home)), true)
    }

    pub(super) fn layout(capacity: usize) -> Layout {
        let size = size_of::<Block>().checked_add(capacity);
        let layout = size.and_then(|size| Layout::from_size_align(size, align_of::<Block>()).ok());
        layout.expect("a length that somebody holds in memory can be laid out")
    }

    pub(super) fn allocate_raw(
        class: u8,
        capacity: usize,
        home: *const Home,
        is_zeroed: bool,
    ) -> NonNull<Block> {
        let layout = Block::layout(capacity);
        // SAFETY: the layout has the size of a header at least.
        let memory = unsafe {
            if is_zeroed {
                alloc::alloc_zeroed(layout)
            } else {
                alloc::alloc(layout)
            }
        };
        let Some(block) = NonNull::new(memory.cast::<Block>()) else {
            alloc::handle_alloc_error(layout)
        };
        let references = AtomicU32::new(1);
        let following = ptr::null_mut();
        let header = Block {
            references,
            class,
            kind: 0,
            capacity,
            start: 0,
            end: 0,
            home,
            following,
        };
        // SAFETY: freshly allocated for a header and more.
        unsafe { block.write(header) };
        block
    }

    /// # Safety
    ///
    /// The block has no handles and is on no list.
    pub(super) unsafe fn free(block: NonNull<Block>) {
        // SAFETY: the caller's promise makes this the only user; the layout is that of the allocation, and the count
        // of the home is the block's own.
        unsafe {
            let Block {
                class,
                capacity,
                home,
                ..
            } = *block.as_ptr();
            if class == FOREIGN {
                ptr::drop_in_place(block.add(1).cast::<Foreign>().as_ptr());
            }
            alloc::dealloc(block.as_ptr().cast(), Block::layout(capacity));
            if !home.is_null() {
                drop(Arc::from_raw(home));
            }
        }
    }

    /// Gives a block back: onto the stack of its home if that is open and has room.
    ///
    /// # Safety
    ///
    /// The block has no handles and is on no list.
    pub(super) unsafe fn give_back(block: NonNull<Block>) {
        // SAFETY: the caller's promise makes this the only user, and the home lives as long as the block.
        unsafe {
            let Block {
                class,
                kind,
                capacity,
                home,
                ..
            } = *block.as_ptr();
            let Some(home) = home.as_ref() else {
                return Block::free(block);
            };
            if usize::from(class) < CLASSES && home.push(block) {
                return;
            }
            home.freed_bytes.fetch_add(capacity, Ordering::Relaxed);
            home.budget.give(MemoryKind::from_index(kind), capacity);
            Block::free(block);
        }
    }

    /// Where the bytes of a block begin.
    pub(super) fn bytes(block: NonNull<Block>) -> *mut u8 {
        // SAFETY: a handle's block is alive; behind its header are its bytes, or the vector that owns them.
        unsafe {
            let behind = block.add(1);
            if block.as_ref().class == FOREIGN {
                return behind.cast::<Foreign>().as_ref().as_ptr().cast_mut();
            }
            behind.cast::<u8>().as_ptr()
        }
    }
}

impl Home {
    /// # Safety
    ///
    /// The block has no handles and is on no list.
    pub(super) unsafe fn push(&self, block: NonNull<Block>) -> bool {
        let mut top = self.returned.load(Ordering::Relaxed);
        while top != closed() {
            // SAFETY: nobody else uses the block before the exchange has succeeded.
            unsafe { (*block.as_ptr()).following = top };
            let (new, success, failure) = (block.as_ptr(), Ordering::Release, Ordering::Relaxed);
            match self
                .returned
                .compare_exchange_weak(top, new, success, failure)
            {
                Ok(_) => return true,
                Err(current) => top = current,
            }
        }
        false
    }
}
