//! The queue of what is going to happen, by virtual time.

use std::cmp::Reverse;
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

/// When an event happens and where it is kept: small, since entries are what the heap moves about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    at: Instant,
    /// Breaks ties: of two events at the same instant, what was planned first happens first.
    sequence: u64,
    /// Place in `EventQueue::events`.
    place: u32,
}

/// Events, earliest first.
#[derive(Default)]
pub(super) struct EventQueue {
    heap: BinaryHeap<Reverse<Entry>>,
    events: Vec<Option<Event>>,
    /// Places without an event.
    free: Vec<u32>,
    planned: u64,
}

impl EventQueue {
    pub(super) fn push(&mut self, at: Instant, event: Event) {
        self.planned += 1;
        let place = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            u32::try_from(self.events.len() - 1).expect("fewer than 2^32 events")
        });
        self.events[place as usize] = Some(event);
        self.heap.push(Reverse(Entry {
            at,
            sequence: self.planned,
            place,
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
        let Reverse(entry) = self.heap.pop()?;
        Some(self.take(entry.place))
    }

    /// Takes out what was arranged from outside and has not come.
    pub(super) fn take_calls(&mut self) -> Vec<Call> {
        let (calls, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.heap)
                .into_iter()
                .partition(|Reverse(entry)| {
                    matches!(self.events[entry.place as usize], Some(Event::Call(_)))
                });
        self.heap = rest.into();
        let call = |Reverse(entry): Reverse<Entry>| match self.take(entry.place) {
            Event::Call(call) => Some(call),
            _ => None,
        };
        calls.into_iter().filter_map(call).collect()
    }

    fn take(&mut self, place: u32) -> Event {
        self.free.push(place);
        let event = self.events[place as usize].take();
        event.expect("an entry of the heap has its event")
    }

    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }
}
