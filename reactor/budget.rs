//! A number of bytes that many parts of a node draw on together.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::io::memory::MemoryBudget;

/// A shared allowance of bytes. Clones draw on the same allowance, from any thread; nothing ever waits.
///
/// Whoever takes bytes gives the same number back when the memory is free again.
#[derive(Clone)]
pub struct ByteBudget(Arc<Inner>);

struct Inner {
    max: usize,
    used: AtomicUsize,
    within: Option<Arc<MemoryBudget>>,
}

impl ByteBudget {
    /// An allowance of `max` bytes.
    pub fn new(max: usize) -> ByteBudget {
        ByteBudget::made(max, None)
    }

    /// An allowance of `max` bytes that grants nothing while a runtime's memory is tight, and at most half of that memory
    /// in all. It counts what was promised; whoever holds the memory counts that.
    pub fn within(memory: &Arc<MemoryBudget>, max: usize) -> ByteBudget {
        ByteBudget::made(max.min(memory.max() / 2), Some(memory.clone()))
    }

    fn made(max: usize, within: Option<Arc<MemoryBudget>>) -> ByteBudget {
        ByteBudget(Arc::new(Inner {
            max,
            used: AtomicUsize::new(0),
            within,
        }))
    }

    /// Takes `bytes` out of the allowance, all or nothing. `false` means that they are not there.
    #[must_use]
    pub fn take(&self, bytes: usize) -> bool {
        if self
            .0
            .within
            .as_ref()
            .is_some_and(|memory| memory.is_tight())
        {
            return false;
        }
        let update = |used: usize| used.checked_add(bytes).filter(|&sum| sum <= self.0.max);
        self.0
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, update)
            .is_ok()
    }

    /// Gives back bytes that were taken.
    pub fn give(&self, bytes: usize) {
        let before = self.0.used.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "more was given back than taken");
    }

    /// Bytes taken at the moment.
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    /// The whole allowance in bytes.
    pub fn max(&self) -> usize {
        self.0.max
    }
}

impl fmt::Debug for ByteBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ByteBudget({} of {})", self.used(), self.max())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::memory::MemoryKind;

    #[test]
    fn an_allowance_within_a_memory_grants_nothing_while_that_is_tight() {
        let memory = Arc::new(MemoryBudget::new(100));
        let budget = ByteBudget::within(&memory, 80);
        assert_eq!(budget.max(), 50);
        memory.adjust(MemoryKind::Payloads, 0, 75);
        assert!(!budget.take(1));
        memory.give(MemoryKind::Payloads, 1);
        assert!(budget.take(50));
    }

    #[test]
    fn a_budget_gives_all_or_nothing_and_takes_back() {
        let budget = ByteBudget::new(100);
        let other = budget.clone();
        assert!(budget.take(60));
        assert!(!other.take(41));
        assert!(other.take(40));
        assert!(!budget.take(1));
        assert!(!budget.take(usize::MAX));
        assert!(budget.take(0));
        other.give(60);
        assert_eq!((budget.used(), budget.max()), (40, 100));
    }
}
