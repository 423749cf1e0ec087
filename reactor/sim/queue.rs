//! The queue of what is going to happen, by virtual time.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use super::arena::Key;
use super::node::MachineId;
use super::packet::Packet;
use crate::io::driver::Job;
use crate::time::Instant;

/// Something that happens at a point in virtual time.
pub(super) enum Event {
    /// A packet reaches the far end of a link.
    Arrival(Box<Packet>),
    /// A TCP endpoint wanted to be looked at.
    TcpTimer(Key),
    /// A UDP socket that refused a datagram takes them again.
    UdpRoom(Key),
    /// A job of a node's offload pool ends, which was begun before the node's so many-th crash.
    Job(MachineId, u32, Job),
    /// Something that was arranged from outside.
    Call(Call),
}

/// What [`SimWorld::call_at`](super::SimWorld::call_at) arranges.
pub(super) type Call = Box<dyn FnOnce(&super::SimWorld)>;

struct Entry {
    at: Instant,
    /// Breaks ties: of two events at the same instant, what was planned first happens first.
    sequence: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

/// Events, earliest first.
#[derive(Default)]
pub(super) struct EventQueue {
    heap: BinaryHeap<Reverse<Entry>>,
    planned: u64,
}

impl EventQueue {
    pub(super) fn push(&mut self, at: Instant, event: Event) {
        self.planned += 1;
        self.heap.push(Reverse(Entry {
            at,
            sequence: self.planned,
            event,
        }));
    }

    /// When the earliest event happens.
    pub(super) fn next_at(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse(entry)| entry.at)
    }

    /// Takes the earliest event if its time has come.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Event> {
        if self.next_at()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry.event)
    }

    /// Takes out what was arranged from outside and has not come.
    pub(super) fn take_calls(&mut self) -> Vec<Call> {
        let (calls, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.heap)
            .into_iter()
            .partition(|Reverse(entry)| matches!(entry.event, Event::Call(_)));
        self.heap = rest.into();
        let call = |Reverse(entry): Reverse<Entry>| match entry.event {
            Event::Call(call) => Some(call),
            _ => None,
        };
        calls.into_iter().filter_map(call).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }
}
