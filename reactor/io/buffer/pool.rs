//! The pool of one core.

use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use super::block::{Block, CLASSES, Home, UNPOOLED, class_capacity, class_for, closed};
use super::{Buffer, Payload};
use crate::io::memory::{KINDS, MemoryBudget, MemoryKind};

/// Bytes of free blocks that a pool may keep in any case while its core is awake.
const CACHED_MIN: usize = 256 * 1024;
/// A pool may keep as many bytes of free blocks as were lately in use at once, up to this part of the budget.
pub(super) const CACHED_SHARE: usize = 8;
/// What was in use at once fades by this part of each block that is taken.
const FADING: usize = 64;
/// The longest buffer: what can be counted in 32 bits and laid out on any machine.
pub const BUFFER_BYTES_MAX: usize = 1 << 30;
/// Bytes by which the shared accounting may lag behind one pool, and which a pool may take before it looks there again.
const UNSETTLED_MAX: isize = 64 * 1024;
/// The memory of one core.
///
/// Free blocks are kept, up to as many bytes as were lately in use at once, and up to an eighth of the budget, in which
/// they do not count. [`BufferPool::trim`] lets go of them all, for a core that goes to sleep.
pub struct BufferPool {
    home: Arc<Home>,
    free: [Vec<NonNull<Block>>; CLASSES],
    cached_bytes: usize,
    /// Bytes in use.
    pub(super) out_bytes: usize,
    /// The most bytes that were lately in use.
    peak_bytes: usize,
    /// Bytes that may be taken before looking at the budget again.
    room: usize,
    /// Taken and given back since the shared accounting was last told.
    unsettled: [isize; KINDS],
}

// SAFETY: the free blocks are nobody else's, and what they point to is shared only through atomics.
unsafe impl Send for BufferPool {}

impl BufferPool {
    /// A pool that counts what it hands out in `budget`.
    pub fn new(budget: Arc<MemoryBudget>) -> BufferPool {
        let returned = AtomicPtr::new(closed());
        BufferPool {
            home: Arc::new(Home {
                returned,
                freed_bytes: AtomicUsize::new(0),
                budget,
            }),
            free: Default::default(),
            cached_bytes: 0,
            out_bytes: 0,
            peak_bytes: 0,
            room: 0,
            unsettled: [0; KINDS],
        }
    }

    /// An empty buffer with room for `capacity` bytes or more. `None` when it does not fit into the budget,
    /// or is beyond 1 GiB.
    pub fn take(&mut self, kind: MemoryKind, capacity: usize) -> Option<Buffer> {
        let size = class_for(capacity).map_or(capacity, class_capacity);
        let fits = capacity <= BUFFER_BYTES_MAX && (self.room >= size || self.find_room(size));
        fits.then(|| self.lend(kind, capacity))
    }

    /// A copy of `bytes` that can still grow, whether it fits into the budget or not: for what must not be lost.
    ///
    /// # Panics
    ///
    /// With more than 1 GiB.
    pub fn hold(&mut self, kind: MemoryKind, bytes: &[u8]) -> Buffer {
        let mut buffer = self.lend(kind, bytes.len());
        buffer.push(bytes);
        buffer
    }

    /// Appends `bytes`, whether they fit into the budget or not.
    ///
    /// # Panics
    ///
    /// With more than 1 GiB in all.
    pub fn extend(&mut self, buffer: &mut Buffer, bytes: &[u8]) {
        if !has_spare(buffer, bytes.len()) {
            let doubled = (buffer.len() + bytes.len()).max(buffer.capacity() * 2);
            let mut longer = self.lend(buffer.kind(), doubled.min(BUFFER_BYTES_MAX));
            longer.push(buffer);
            *buffer = longer;
        }
        let pushed = buffer.push(bytes);
        assert_eq!(pushed, bytes.len(), "a buffer holds up to 1 GiB");
    }

    fn lend(&mut self, kind: MemoryKind, capacity: usize) -> Buffer {
        assert!(capacity <= BUFFER_BYTES_MAX, "a buffer holds up to 1 GiB");
        let class = class_for(capacity);
        let size = class.map_or(capacity, class_capacity);
        let block = match class {
            Some(class) => self.take_block(class),
            None => Block::allocate(UNPOOLED, capacity, &self.home),
        };
        self.room = self.room.saturating_sub(size);
        self.out_bytes += size;
        self.peak_bytes = (self.peak_bytes.saturating_sub(size / FADING)).max(self.out_bytes);
        self.count(kind, size as isize);
        // SAFETY: the block has no handle yet, so nobody else looks at it.
        let header = unsafe { &mut *block.as_ptr() };
        *header.references.get_mut() = 1;
        header.kind = kind as u8;
        (header.start, header.end) = (0, 0);
        Buffer(block)
    }

    /// A copy of `bytes`. `None` when it does not fit into the budget.
    pub fn copy(&mut self, kind: MemoryKind, bytes: &[u8]) -> Option<Payload> {
        let mut buffer = self.take(kind, bytes.len())?;
        buffer.push(bytes);
        Some(buffer.freeze())
    }

    /// Sees to it that `extra` bytes fit behind the contents of `buffer`: by moving them to the front or into a longer
    /// block. False, and nothing changed, when that does not fit into the budget.
    pub fn reserve(&mut self, buffer: &mut Buffer, extra: usize) -> bool {
        if has_spare(buffer, extra) {
            return true;
        }
        let Some(needed) = buffer.len().checked_add(extra) else {
            return false;
        };
        // At least twice as long, so that growing byte by byte copies each byte twice in all.
        let kind = buffer.kind();
        let doubled = needed.max(buffer.capacity() * 2);
        let longer = self.take(kind, doubled).or_else(|| self.take(kind, needed));
        let Some(mut longer) = longer else {
            let fits = needed <= buffer.capacity();
            if fits {
                buffer.move_to_front();
            }
            return fits;
        };
        longer.push(buffer);
        *buffer = longer;
        true
    }

    /// Collects what came back and tells the shared accounting. To be called once a turn; between two calls the pool
    /// is off by no more than 64 KiB a kind, and what came back meanwhile.
    pub fn settle(&mut self) {
        self.collect_returned();
        for kind in MemoryKind::ALL {
            self.settle_kind(kind);
        }
        self.room = 0;
    }

    /// Frees what is cached, and has what comes back later freed at once, until the next [`BufferPool::take`].
    pub fn trim(&mut self) {
        self.collect_returned();
        let returned = self.home.returned.swap(closed(), Ordering::Acquire);
        self.collect(returned);
        for class in &mut self.free {
            for block in std::mem::take(class) {
                // SAFETY: free blocks have no handles.
                unsafe { Block::free(block) };
            }
        }
        self.cached_bytes = 0;
        self.peak_bytes = self.out_bytes;
        for kind in MemoryKind::ALL {
            self.settle_kind(kind);
        }
        self.room = 0;
    }

    /// Bytes of free blocks.
    pub fn cached_bytes(&self) -> usize {
        self.cached_bytes
    }

    /// Looks at the budget for room for `size` bytes, and some more so as not to look each time.
    #[cold]
    fn find_room(&mut self, size: usize) -> bool {
        self.settle();
        let left = self
            .home
            .budget
            .max()
            .saturating_sub(self.home.budget.used());
        self.room = left.min(size.saturating_add(UNSETTLED_MAX as usize));
        self.room >= size
    }

    fn count(&mut self, kind: MemoryKind, change: isize) {
        let unsettled = &mut self.unsettled[kind as usize];
        *unsettled += change;
        if unsettled.abs() >= UNSETTLED_MAX {
            self.settle_kind(kind);
        }
    }

    fn settle_kind(&mut self, kind: MemoryKind) {
        let change = std::mem::take(&mut self.unsettled[kind as usize]);
        match usize::try_from(change) {
            Ok(0) => {}
            Ok(taken) => self.home.budget.adjust(kind, 0, taken),
            Err(_) => self.home.budget.give(kind, change.unsigned_abs()),
        }
    }

    fn take_block(&mut self, class: usize) -> NonNull<Block> {
        if self.free[class].is_empty() {
            self.collect_returned();
        }
        match self.free[class].pop() {
            Some(block) => {
                self.cached_bytes -= class_capacity(class);
                block
            }
            None => {
                self.open();
                Block::allocate(class as u8, class_capacity(class), &self.home)
            }
        }
    }

    /// From now on blocks may come back.
    fn open(&self) {
        let (order, home) = (Ordering::Relaxed, &self.home.returned);
        // Only the pool itself opens and closes the stack, so if this fails it is open already.
        let _ = home.compare_exchange(closed(), ptr::null_mut(), order, order);
    }

    fn collect_returned(&mut self) {
        let top = self.home.returned.load(Ordering::Relaxed);
        if !top.is_null() && top != closed() {
            let returned = self.home.returned.swap(ptr::null_mut(), Ordering::Acquire);
            self.collect(returned);
        }
        if self.home.freed_bytes.load(Ordering::Relaxed) != 0 {
            self.out_bytes -= self.home.freed_bytes.swap(0, Ordering::Relaxed);
        }
    }

    /// Sorts the blocks of a stack into the free lists, and frees those beyond the bound.
    fn collect(&mut self, returned: *mut Block) {
        let cap = (self.home.budget.max() / CACHED_SHARE).max(CACHED_MIN);
        let cached_max = self.peak_bytes.clamp(CACHED_MIN, cap);
        let mut next = if returned == closed() {
            ptr::null_mut()
        } else {
            returned
        };
        while let Some(block) = NonNull::new(next) {
            // SAFETY: what was on the stack has no handles, and is ours alone since the swap.
            let header = unsafe { block.as_ref() };
            next = header.following;
            let (class, capacity) = (usize::from(header.class), header.capacity);
            self.out_bytes -= capacity;
            self.count(MemoryKind::from_index(header.kind), -(capacity as isize));
            if self.cached_bytes + capacity <= cached_max {
                self.cached_bytes += capacity;
                self.free[class].push(block);
            } else {
                // SAFETY: as above.
                unsafe { Block::free(block) };
            }
        }
    }
}

/// Whether there is room for `extra` bytes behind the contents, perhaps after they are moved to the front. That is done
/// only if at least as much has gone as is left, so that it is paid for by what has gone.
fn has_spare(buffer: &mut Buffer, extra: usize) -> bool {
    if buffer.spare().len() >= extra {
        return true;
    }
    let capacity = buffer.capacity();
    let fits = buffer.len() <= capacity / 2 && extra <= capacity - buffer.len();
    if fits {
        buffer.move_to_front();
    }
    fits
}

impl Drop for BufferPool {
    /// What is still in use is freed where it is dropped.
    fn drop(&mut self) {
        self.trim();
    }
}

impl std::fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BufferPool")
            .field("cached_bytes", &self.cached_bytes)
            .finish_non_exhaustive()
    }
}
