//! Sight: what every actor and core does and holds.

use std::time::Duration;

use super::ActorId;

/// One actor, as [`Snapshot`] shows it.
#[derive(Clone, Debug)]
pub struct ActorStats {
    /// Who.
    pub id: ActorId,
    /// Its type.
    pub type_name: &'static str,
    /// Its registered name.
    pub name: Option<&'static str>,
    /// Its parent's id.
    pub parent: Option<ActorId>,
    /// Messages handled, modulo 2^32.
    pub messages: u32,
    /// Time spent in its handlers: exact for events, sampled for messages.
    pub busy: Duration,
    /// Messages waiting, from its own core and from elsewhere.
    pub queued: u32,
    /// Most messages of its own core that ever waited.
    pub high_water: u32,
    /// Bytes: its state, what it says it owns, and what its waiting messages own.
    pub memory: usize,
    /// Sockets it owns.
    pub sockets: u32,
    /// Times it was made anew.
    pub restarts: u32,
    /// Messages that were lost because handling them failed.
    pub dropped: u32,
}

/// A handler that held its core for longer than [`Limits::stall`](super::Limits::stall).
#[derive(Clone, Debug)]
pub struct Stall {
    /// The actor type and what it handled: a message type or an event. When several messages were handled between
    /// two readings of the clock, all that come into question, separated by ` | `; the core then reads the clock at
    /// every message for a while, so that the next stall has one name.
    pub what: String,
    /// How long.
    pub duration: Duration,
}

/// One core, as [`Snapshot`] shows it.
#[derive(Clone, Debug, Default)]
pub struct CoreStats {
    /// Number of the core.
    pub core: u8,
    /// Turns of its loop.
    pub turns: u32,
    /// Times it went to wait for the outside.
    pub sleeps: u32,
    /// Messages handled, modulo 2^32.
    pub messages: u32,
    /// Messages that found no actor any more.
    pub undeliverable: u32,
    /// Messages waiting now.
    pub queued: usize,
    /// Timers armed.
    pub timers: usize,
    /// Sockets open.
    pub sockets: u32,
    /// Questions in flight.
    pub asks: usize,
    /// The latest stalls, oldest first, at most [`STALLS_KEPT`].
    pub stalls: Vec<Stall>,
    /// Stalls in all.
    pub stalls_total: u32,
    /// Its actors.
    pub actors: Vec<ActorStats>,
}

/// Stalls that a core remembers.
pub const STALLS_KEPT: usize = 16;

/// A runtime at one moment (of each core).
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Its cores.
    pub cores: Vec<CoreStats>,
    /// Bytes held by pools, queues and buffers.
    pub memory: usize,
}

impl Snapshot {
    /// All actors of all cores.
    pub fn actors(&self) -> impl Iterator<Item = &ActorStats> {
        self.cores.iter().flat_map(|core| &core.actors)
    }
}
