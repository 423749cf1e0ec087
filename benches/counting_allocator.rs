//! The system's allocator, counting what passes through it: how often, how much is held, and in pieces of which size.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Pieces up to this size are counted by size, to 16 bytes; larger ones together.
pub const COUNTED_MAX: usize = 4096;
const STEP: usize = 16;
const CLASSES: usize = COUNTED_MAX / STEP + 1;

static CALLS: AtomicUsize = AtomicUsize::new(0);
static HELD: AtomicUsize = AtomicUsize::new(0);
static LARGE: AtomicUsize = AtomicUsize::new(0);
static PIECES: [AtomicUsize; CLASSES] = [const { AtomicUsize::new(0) }; CLASSES];

/// Counts and passes on to [`System`].
pub struct Counting;

/// What is held at one moment.
#[derive(Clone)]
pub struct Held {
    /// Bytes in all, as they were asked for.
    pub bytes: usize,
    /// Bytes in pieces of more than [`COUNTED_MAX`].
    pub large: usize,
    /// How many pieces of at most 16, 32, 48 bytes and so on.
    pieces: Vec<usize>,
}

/// How often memory was asked for since the program began.
pub fn calls() -> usize {
    CALLS.load(Ordering::Relaxed)
}

/// What is held now.
pub fn held() -> Held {
    let bytes = HELD.load(Ordering::Relaxed);
    let large = LARGE.load(Ordering::Relaxed);
    Held {
        bytes,
        large,
        pieces: PIECES
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .collect(),
    }
}

impl Held {
    /// Of which sizes there are at least `least` pieces more than there were `before`: the size, rounded up to 16, and how
    /// many more.
    pub fn grown_since(&self, before: &Held, least: usize) -> Vec<(usize, usize)> {
        let more = self
            .pieces
            .iter()
            .zip(&before.pieces)
            .map(|(now, then)| now.saturating_sub(*then));
        more.enumerate()
            .filter(|(_, more)| *more >= least)
            .map(|(class, more)| (class * STEP, more))
            .collect()
    }
}

fn note(size: usize, is_added: bool) {
    let change = |place: &AtomicUsize, by: usize| {
        if is_added {
            place.fetch_add(by, Ordering::Relaxed)
        } else {
            place.fetch_sub(by, Ordering::Relaxed)
        };
    };
    change(&HELD, size);
    match PIECES.get(size.div_ceil(STEP)) {
        Some(pieces) => change(pieces, 1),
        None => change(&LARGE, size),
    }
}

// SAFETY: every call is passed on to `System` unchanged; the counters touch no memory that is handed out.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        note(layout.size(), true);
        // SAFETY: the caller keeps the contract of `GlobalAlloc`, which is that of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        note(layout.size(), false);
        // SAFETY: as in `alloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        note(layout.size(), true);
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        note(layout.size(), false);
        note(size, true);
        // SAFETY: as in `alloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
