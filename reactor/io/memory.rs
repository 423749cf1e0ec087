//! One number over all memory that traffic can make a runtime hold.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;

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
    /// What waits to be sent above the sockets.
    Sending,
    /// Bytes that the kernel has not taken yet.
    SendBuffers,
    /// Partial frames and partial messages.
    Reassembly,
    /// Payloads on their way between actors and to the user.
    Payloads,
}

pub(crate) const KINDS: usize = 5;

impl MemoryKind {
    pub(crate) const ALL: [MemoryKind; KINDS] = [
        MemoryKind::Queues,
        MemoryKind::Sending,
        MemoryKind::SendBuffers,
        MemoryKind::Reassembly,
        MemoryKind::Payloads,
    ];

    /// The kind whose number it is.
    pub(crate) fn from_index(index: u8) -> MemoryKind {
        MemoryKind::ALL[usize::from(index)]
    }
}

/// Who may wait for memory at once. Whoever comes after them is told at once, to try again.
const WAITING_MAX: usize = 4096;

/// The accounting behind [`Limits::memory_max`](crate::Limits::memory_max): what is held, by kind, over all cores.
///
/// Nothing more is to be sent from three quarters of it on ([`MemoryBudget::is_tight`]). Nobody new is let in when it is
/// reached ([`MemoryBudget::is_over`]), and nothing is read any more ([`MemoryBudget::is_deaf`]), except that what waits to
/// be sent cannot end reading by itself: it can leave only while the other side is heard.
pub struct MemoryBudget {
    max: usize,
    used: [AtomicUsize; KINDS],
    has_waiting: AtomicBool,
    waiting: Mutex<Vec<Box<dyn FnOnce() + Send>>>,
}

impl MemoryBudget {
    /// A budget of `max` bytes.
    pub fn new(max: usize) -> MemoryBudget {
        MemoryBudget {
            max,
            used: Default::default(),
            has_waiting: AtomicBool::new(false),
            waiting: Mutex::default(),
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
        self.adjust(kind, bytes, 0);
    }

    /// Has a share that was `from` bytes count as `to`, whether it fits or not: for memory that is held already.
    pub fn adjust(&self, kind: MemoryKind, from: usize, to: usize) {
        // In one order with the mark of those who wait, so that they or whoever gives back see the other.
        self.used[kind as usize].fetch_add(to.wrapping_sub(from), Ordering::SeqCst);
    }

    /// Bytes held. What was given back on one core before another has reported that it took it counts below zero.
    pub fn used(&self) -> usize {
        let balance = |used: &AtomicUsize| used.load(Ordering::SeqCst) as isize;
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

    /// Whether reading has to stop: the bound is reached, and a quarter of it holds what does not wait to be sent.
    pub fn is_deaf(&self) -> bool {
        let balance = |kind: MemoryKind| self.used[kind as usize].load(Ordering::SeqCst) as isize;
        let leaving = balance(MemoryKind::Sending).wrapping_add(balance(MemoryKind::SendBuffers));
        let used = self.used();
        let staying = (used as isize).wrapping_sub(leaving);
        used >= self.max && staying >= (self.max / 4) as isize
    }

    /// What may be held, in bytes, before nothing more is begun: three quarters of the bound.
    pub fn tight_from(&self) -> usize {
        self.max - self.max / 4
    }

    /// Whether nothing more is to be begun that needs memory, sending above all.
    pub fn is_tight(&self) -> bool {
        self.used() >= self.tight_from()
    }

    /// Calls `tell` when memory is no longer tight, on the thread of a core, or at once if it is not. It must not block.
    pub fn when_loose(&self, tell: impl FnOnce() + Send + 'static) {
        {
            let mut waiting = self.waiting.lock();
            if waiting.len() < WAITING_MAX {
                waiting.push(Box::new(tell));
                self.has_waiting.store(true, Ordering::SeqCst);
            } else {
                drop(waiting);
                return tell();
            }
        }
        self.tell_waiting();
    }

    /// Tells those who wait, if memory is no longer tight. Each core does it at the end of a turn.
    pub(crate) fn tell_waiting(&self) {
        if !self.has_waiting.load(Ordering::SeqCst) || self.is_tight() {
            return;
        }
        let waiting = {
            let mut waiting = self.waiting.lock();
            self.has_waiting.store(false, Ordering::SeqCst);
            std::mem::take(&mut *waiting)
        };
        for tell in waiting {
            tell();
        }
    }
}

impl fmt::Debug for MemoryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryBudget({} of {})", self.used(), self.max)
    }
}

/// What one owner holds, counted in a [`MemoryBudget`] until it is dropped.
#[derive(Debug)]
pub struct MemoryShare {
    budget: Arc<MemoryBudget>,
    kind: MemoryKind,
    bytes: usize,
}

impl MemoryShare {
    /// Nothing so far.
    pub fn new(budget: &Arc<MemoryBudget>, kind: MemoryKind) -> MemoryShare {
        MemoryShare {
            budget: budget.clone(),
            kind,
            bytes: 0,
        }
    }

    /// The owner now holds `bytes`, whether they fit or not.
    #[inline]
    pub fn set(&mut self, bytes: usize) {
        if bytes != self.bytes {
            self.budget.adjust(self.kind, self.bytes, bytes);
            self.bytes = bytes;
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where it is counted.
    pub fn budget(&self) -> &Arc<MemoryBudget> {
        &self.budget
    }
}

impl Drop for MemoryShare {
    fn drop(&mut self) {
        self.set(0);
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

    #[test]
    fn a_share_counts_what_its_owner_holds_and_nothing_after_it() {
        let budget = Arc::new(MemoryBudget::new(100));
        let mut share = MemoryShare::new(&budget, MemoryKind::Queues);
        share.set(80);
        share.set(60);
        assert_eq!((share.bytes(), budget.used()), (60, 60));
        drop(share);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn who_waits_for_memory_is_told_once_when_a_quarter_is_free() {
        let budget = Arc::new(MemoryBudget::new(100));
        let told = Arc::new(AtomicUsize::new(0));
        let tell = || {
            let told = told.clone();
            move || {
                let _ = told.fetch_add(1, Ordering::Relaxed);
            }
        };
        let told = || told.load(Ordering::Relaxed);
        budget.when_loose(tell());
        assert_eq!(told(), 1, "there is memory");
        budget.adjust(MemoryKind::Payloads, 0, 75);
        budget.when_loose(tell());
        budget.tell_waiting();
        assert!(budget.is_tight() && !budget.is_over() && told() == 1);
        budget.give(MemoryKind::Payloads, 1);
        budget.tell_waiting();
        budget.tell_waiting();
        assert_eq!(told(), 2);
    }

    #[test]
    fn of_too_many_who_wait_for_memory_the_last_try_again_at_once() {
        let budget = Arc::new(MemoryBudget::new(1));
        budget.adjust(MemoryKind::Payloads, 0, 1);
        let told = Arc::new(AtomicUsize::new(0));
        for _ in 0..WAITING_MAX + 2 {
            let told = told.clone();
            budget.when_loose(move || {
                let _ = told.fetch_add(1, Ordering::Relaxed);
            });
        }
        assert_eq!(told.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn what_waits_to_be_sent_does_not_end_reading_by_itself() {
        let budget = MemoryBudget::new(100);
        budget.adjust(MemoryKind::Sending, 0, 90);
        budget.adjust(MemoryKind::SendBuffers, 0, 30);
        assert!(budget.is_over() && !budget.is_deaf());
        budget.adjust(MemoryKind::Payloads, 0, 25);
        assert!(budget.is_deaf());
        budget.give(MemoryKind::Sending, 60);
        assert!(!budget.is_over() && !budget.is_deaf());
    }
}
