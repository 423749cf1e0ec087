//! The open requests of one direction: by peer and number, with their deadlines, within their bounds.

use std::collections::{BTreeMap, BTreeSet};

use mischief_reactor::Instant;

use super::message::RequestId;

/// Why a request is not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotOpened {
    /// There are too many, of this peer or in all.
    Full,
    /// One with this number is open.
    Repeated,
}

/// Open requests, each with something to remember. `C` is a peer's connection.
#[derive(Debug)]
pub(super) struct Ledger<C, T> {
    open: BTreeMap<(C, RequestId), (Instant, T)>,
    /// Open requests of each connection that has any.
    counts: BTreeMap<C, u32>,
    deadlines: BTreeSet<(Instant, C, RequestId)>,
    per_peer_max: u32,
    max: u32,
}

impl<C: Copy + Ord, T> Ledger<C, T> {
    pub(super) fn new(per_peer_max: u32, max: u32) -> Ledger<C, T> {
        Ledger {
            open: BTreeMap::new(),
            counts: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            per_peer_max,
            max,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    pub(super) fn of_peer(&self, peer: C) -> u32 {
        self.counts.get(&peer).copied().unwrap_or(0)
    }

    pub(super) fn contains(&self, peer: C, id: RequestId) -> bool {
        self.open.contains_key(&(peer, id))
    }

    pub(super) fn get_mut(&mut self, peer: C, id: RequestId) -> Option<&mut T> {
        self.open.get_mut(&(peer, id)).map(|(_, entry)| entry)
    }

    /// Whether one more of this peer fits.
    pub(super) fn has_room(&self, peer: C) -> bool {
        self.open.len() < self.max as usize && self.of_peer(peer) < self.per_peer_max
    }

    pub(super) fn insert(
        &mut self,
        peer: C,
        id: RequestId,
        deadline: Instant,
        entry: T,
    ) -> Result<(), NotOpened> {
        if self.contains(peer, id) {
            return Err(NotOpened::Repeated);
        }
        if !self.has_room(peer) {
            return Err(NotOpened::Full);
        }
        self.open.insert((peer, id), (deadline, entry));
        *self.counts.entry(peer).or_default() += 1;
        self.deadlines.insert((deadline, peer, id));
        Ok(())
    }

    pub(super) fn remove(&mut self, peer: C, id: RequestId) -> Option<T> {
        let (deadline, entry) = self.open.remove(&(peer, id))?;
        let was_listed = self.deadlines.remove(&(deadline, peer, id));
        debug_assert!(was_listed, "every open request has its deadline listed");
        let count = self.counts.get_mut(&peer);
        let count = count.expect("who has an open request is counted");
        *count -= 1;
        if *count == 0 {
            self.counts.remove(&peer);
        }
        Some(entry)
    }

    /// Takes out one of a peer's requests, the lowest number first.
    pub(super) fn remove_any(&mut self, peer: C) -> Option<(RequestId, T)> {
        let all = (peer, RequestId(0))..=(peer, RequestId(u32::MAX));
        let (&(_, id), _) = self.open.range(all).next()?;
        self.remove(peer, id).map(|entry| (id, entry))
    }

    /// Takes out one whose deadline has come, the earliest first.
    pub(super) fn remove_due(&mut self, now: Instant) -> Option<(C, RequestId, T)> {
        let &(deadline, peer, id) = self.deadlines.first()?;
        if deadline > now {
            return None;
        }
        self.remove(peer, id).map(|entry| (peer, id, entry))
    }

    /// The earliest deadline.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, ..)| *deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: Instant = Instant::from_nanos(100);

    #[test]
    fn bounds_hold_per_peer_and_in_all() {
        let mut ledger: Ledger<u8, ()> = Ledger::new(2, 3);
        let mut insert = |peer, id| ledger.insert(peer, RequestId(id), END, ());
        assert_eq!((insert(1, 1), insert(1, 2)), (Ok(()), Ok(())));
        assert_eq!(insert(1, 1), Err(NotOpened::Repeated));
        assert_eq!(insert(1, 3), Err(NotOpened::Full));
        assert_eq!(insert(2, 1), Ok(()));
        assert_eq!(insert(3, 1), Err(NotOpened::Full));
        assert_eq!(ledger.remove(1, RequestId(1)), Some(()));
        assert_eq!(ledger.insert(3, RequestId(1), END, ()), Ok(()));
        assert_eq!((ledger.len(), ledger.of_peer(1)), (3, 1));
    }

    #[test]
    fn requests_leave_by_number_by_peer_and_by_deadline_and_leave_nothing() {
        let mut ledger: Ledger<u8, u32> = Ledger::new(10, 10);
        for id in 0..4 {
            let deadline = Instant::from_nanos(40 - u64::from(id));
            let peer = (id % 2) as u8;
            ledger.insert(peer, RequestId(id), deadline, id).unwrap();
        }
        assert_eq!(ledger.deadline(), Some(Instant::from_nanos(37)));
        assert_eq!(ledger.remove_due(Instant::from_nanos(36)), None);
        let due = ledger.remove_due(Instant::from_nanos(38));
        assert_eq!(due, Some((1, RequestId(3), 3)));
        assert_eq!(ledger.remove_any(0), Some((RequestId(0), 0)));
        assert_eq!(ledger.remove_any(0), Some((RequestId(2), 2)));
        assert_eq!(ledger.remove_any(0), None);
        assert_eq!(ledger.remove(1, RequestId(1)), Some(1));
        assert_eq!(ledger.remove(1, RequestId(1)), None);
        assert!(ledger.counts.is_empty() && ledger.deadlines.is_empty());
        assert_eq!((ledger.len(), ledger.deadline()), (0, None));
    }
}
