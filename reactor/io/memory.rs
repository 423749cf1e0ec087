//! One number over all memory that traffic can make a runtime hold.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Makes room for one more in a table that grows with the number of peers: by an eighth, since doubling would leave up to
/// half of the memory unused. Large pieces are not copied when they grow, where the system can move pages.
pub(crate) fn reserve_one<T>(table: &mut Vec<T>) {
    if table.len() == table.capacity() {
        table.reserve_exact((table.len() / 8).max(64));
    }
}

/// What memory is held for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum MemoryKind {
    /// Bytes owned by messages that wait in mailboxes.
    Queues = 0,
    /// Bytes that the kernel has not taken yet.
    SendBuffers,
    /// Partial frames and partial messages.
    Reassembly,
    /// Payloads on their way between actors and to the user.
    Payloads,
}

pub(crate) const KINDS: usize = 4;

impl MemoryKind {
    pub(crate) const ALL: [MemoryKind; KINDS] = [
        MemoryKind::Queues,
        MemoryKind::SendBuffers,
        MemoryKind::Reassembly,
        MemoryKind::Payloads,
    ];

    /// The kind whose number it is.
    pub(crate) fn from_index(index: u8) -> MemoryKind {
        MemoryKind::ALL[usize::from(index)]
    }
}

/// The accounting behind [`Limits::memory_max`](crate::Limits::memory_max): what is held, by kind, over all cores.
#[derive(Debug)]
pub struct MemoryBudget {
    max: usize,
    used: [AtomicUsize; KINDS],
}

impl MemoryBudget {
    /// A budget of `max` bytes.
    pub fn new(max: usize) -> MemoryBudget {
        MemoryBudget {
            max,
            used: Default::default(),
        }
    }

    /// Counts `bytes` if they fit.
    #[must_use]
    pub fn try_take(&self, kind: MemoryKind, bytes: usize) -> bool {
        if self.used().saturating_add(bytes) > self.max {
            return false;
        }
        self.used[kind as usize].fetch_add(bytes, Ordering::Relaxed);
        true
    }

    /// Takes back what [`MemoryBudget::try_take`] counted.
    pub fn give(&self, kind: MemoryKind, bytes: usize) {
        self.used[kind as usize].fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Has a share that was `from` bytes count as `to`, whether it fits or not: for memory that is held already.
    pub fn adjust(&self, kind: MemoryKind, from: usize, to: usize) {
        self.used[kind as usize].fetch_add(to.wrapping_sub(from), Ordering::Relaxed);
    }

    /// Bytes held. What was given back on one core before another has reported that it took it counts below zero.
    pub fn used(&self) -> usize {
        let balance = |used: &AtomicUsize| used.load(Ordering::Relaxed) as isize;
        let sum = self.used.iter().map(balance).fold(0, isize::wrapping_add);
        usize::try_from(sum).unwrap_or(0)
    }

    /// Bytes held for one purpose.
    pub fn used_for(&self, kind: MemoryKind) -> usize {
        let used = self.used[kind as usize].load(Ordering::Relaxed);
        usize::try_from(used as isize).unwrap_or(0)
    }

    /// The bound.
    pub fn max(&self) -> usize {
        self.max
    }

    /// Whether the bound is reached.
    pub fn is_over(&self) -> bool {
        self.used() >= self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_and_what_is_given_back_fits_again() {
        let budget = MemoryBudget::new(100);
        assert!(budget.try_take(MemoryKind::Reassembly, 60));
        assert!(!budget.try_take(MemoryKind::Queues, 41));
        assert!(budget.try_take(MemoryKind::Queues, 40) && budget.is_over());
        budget.give(MemoryKind::Reassembly, 60);
        assert_eq!(
            (budget.used(), budget.used_for(MemoryKind::Queues)),
            (40, 40)
        );
        budget.adjust(MemoryKind::Queues, 40, 5);
        budget.adjust(MemoryKind::SendBuffers, 0, 100);
        assert!(budget.is_over() && budget.used() == 105);
        budget.adjust(MemoryKind::Queues, 6, 0);
        assert_eq!(
            (budget.used(), budget.used_for(MemoryKind::Queues)),
            (99, 0),
            "discounted before it is counted"
        );
        budget.adjust(MemoryKind::Queues, 0, 6);
        assert_eq!(budget.used(), 105);
    }
}
