//! The machine: which requests are open in either direction, and what becomes of them.

use std::collections::VecDeque;
use std::time::Duration;

use mischief_reactor::Instant;

use super::ledger::{Ledger, NotOpened};
use super::message::{RequestId, RequestMessage};

/// Requests that this node may have open to one peer, and one peer to this node.
pub const OPEN_PER_PEER_MAX: u32 = 256;
/// Requests that this node may have open to all peers, and all peers to this node.
pub const OPEN_MAX: u32 = 4096;
/// The longest time that a request may take; longer ones are cut to it.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(3600);
/// The shortest time; shorter ones are raised to it.
pub const TIMEOUT_MIN: Duration = Duration::from_millis(1);

/// How many requests may be open at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    /// Ours to one peer. A peer with smaller limits than this refuses what is too much for it.
    pub asked_per_peer: u32,
    /// Ours to all peers.
    pub asked: u32,
    /// One peer's to us. Further ones are answered as [`Busy`](super::FailureCode::Busy).
    pub answering_per_peer: u32,
    /// All peers' to us. Likewise.
    pub answering: u32,
}

impl Default for RequestLimits {
    fn default() -> RequestLimits {
        RequestLimits {
            asked_per_peer: OPEN_PER_PEER_MAX,
            asked: OPEN_MAX,
            answering_per_peer: OPEN_PER_PEER_MAX,
            answering: OPEN_MAX,
        }
    }
}

/// What was counted since the start. The counters wrap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestStats {
    /// Requests that were asked.
    pub asked: u64,
    /// Requests that peers asked and that were taken.
    pub answering: u64,
    /// Requests of peers that were too many.
    pub busy: u64,
    /// Requests of peers with the number of one that is open, which are ignored.
    pub repeated: u64,
    /// Replies and failures of requests that are not open, which are ignored: late ones, and made-up ones.
    pub stray: u64,
}

/// What has become of a message from a peer.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<A, W> {
    /// A request that is open now: it is to be handled, and then [`Requests::finish`]ed.
    Request,
    /// A request that is one too many: the peer is to be told that this node is busy.
    Busy,
    /// The request of this asker has a reply, or has failed: the message says which.
    Outcome(A),
    /// The peer does not wait any more for its request. Who watches it is to be told.
    Cancelled(Option<W>),
    /// Nothing: it means a request that is not open, or one that is open already.
    Ignored,
}

/// What happens by itself.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<C, A, W> {
    /// No reply came in time. The asker is to be told, and the peer that it need not go on.
    TimedOut {
        /// Whom was asked.
        peer: C,
        /// The request.
        id: RequestId,
        /// Who asked.
        asker: A,
    },
    /// The peer is gone: this request gets no reply.
    Gone {
        /// Who asked.
        asker: A,
    },
    /// A peer's request is over without an answer: its time has passed, or the peer is gone.
    Dropped {
        /// Who watches it.
        watcher: Option<W>,
    },
}

/// The requests of one node.
///
/// `C` names a connection, `A` is an asker, who is told one outcome, and `W` a watcher, who is told if a request that is being
/// handled is wanted no more. Every asker handed to [`Requests::ask`] comes back exactly once: from [`Requests::give_up`],
/// as [`Received::Outcome`], or in an [`Event`]. A peer without an open request costs nothing.
#[derive(Debug)]
pub struct Requests<C, A, W> {
    asked: Ledger<C, A>,
    answering: Ledger<C, Option<W>>,
    next_id: u32,
    events: VecDeque<Event<C, A, W>>,
    stats: RequestStats,
}

impl<C: Copy + Ord, A, W> Requests<C, A, W> {
    /// No requests.
    pub fn new(limits: RequestLimits) -> Requests<C, A, W> {
        Requests {
            asked: Ledger::new(limits.asked_per_peer, limits.asked),
            answering: Ledger::new(limits.answering_per_peer, limits.answering),
            next_id: 0,
            events: VecDeque::new(),
            stats: RequestStats::default(),
        }
    }

    // ---- asking

    /// Opens a request to a peer, and gives its number and the time it has, in milliseconds. Hands the asker back if too many
    /// are open.
    pub fn ask(
        &mut self,
        now: Instant,
        peer: C,
        timeout: Duration,
        asker: A,
    ) -> Result<(RequestId, u32), A> {
        if !self.asked.has_room(peer) {
            return Err(asker);
        }
        let timeout = timeout.clamp(TIMEOUT_MIN, TIMEOUT_MAX);
        let id = self.free_id(peer);
        let opened = self.asked.insert(peer, id, now + timeout, asker);
        assert_eq!(opened, Ok(()), "there is room, and the number is free");
        self.stats.asked = self.stats.asked.wrapping_add(1);
        Ok((id, timeout.as_millis() as u32))
    }

    /// The next number that is not open with this peer: a long request may still have it after 2^32 others.
    fn free_id(&mut self, peer: C) -> RequestId {
        loop {
            let id = RequestId(self.next_id);
            self.next_id = self.next_id.wrapping_add(1);
            if !self.asked.contains(peer, id) {
                return id;
            }
        }
    }

    /// Closes a request that nobody waits for any more, or that could not be sent. `None`: it has had its outcome. If it was
    /// sent, the peer is to be told.
    pub fn give_up(&mut self, peer: C, id: RequestId) -> Option<A> {
        self.asked.remove(peer, id)
    }

    // ---- answering

    /// Names who is to be told if a peer's request is wanted no more, and gives who was named before. Hands the watcher back
    /// if that is so already.
    pub fn watch(&mut self, peer: C, id: RequestId, watcher: W) -> Result<Option<W>, W> {
        match self.answering.get_mut(peer, id) {
            Some(watched) => Ok(watched.replace(watcher)),
            None => Err(watcher),
        }
    }

    /// Whether a peer's request still wants an answer.
    pub fn is_wanted(&self, peer: C, id: RequestId) -> bool {
        self.answering.contains(peer, id)
    }

    /// Closes a peer's request because its outcome is about to be sent. `None`: nobody wants it any more. The watcher, if
    /// there is one, comes back and is not to be told.
    pub fn finish(&mut self, peer: C, id: RequestId) -> Option<Option<W>> {
        self.answering.remove(peer, id)
    }

    // ---- what happens

    /// Takes a message from a peer.
    pub fn handle_message(
        &mut self,
        now: Instant,
        peer: C,
        message: &RequestMessage<'_>,
    ) -> Received<A, W> {
        match *message {
            RequestMessage::Request { id, timeout_ms, .. } => {
                self.handle_request(now, peer, id, timeout_ms)
            }
            RequestMessage::Reply { id, .. } | RequestMessage::Failure { id, .. } => {
                match self.asked.remove(peer, id) {
                    Some(asker) => Received::Outcome(asker),
                    None => {
                        self.stats.stray = self.stats.stray.wrapping_add(1);
                        Received::Ignored
                    }
                }
            }
            RequestMessage::Cancel { id } => match self.answering.remove(peer, id) {
                Some(watcher) => Received::Cancelled(watcher),
                None => Received::Ignored,
            },
        }
    }

    fn handle_request(
        &mut self,
        now: Instant,
        peer: C,
        id: RequestId,
        timeout_ms: u32,
    ) -> Received<A, W> {
        let timeout = Duration::from_millis(u64::from(timeout_ms));
        let deadline = now + timeout.clamp(TIMEOUT_MIN, TIMEOUT_MAX);
        let (counter, received) = match self.answering.insert(peer, id, deadline, None) {
            Ok(()) => (&mut self.stats.answering, Received::Request),
            Err(NotOpened::Full) => (&mut self.stats.busy, Received::Busy),
            // To refuse it would end the first one, whose number it has.
            Err(NotOpened::Repeated) => (&mut self.stats.repeated, Received::Ignored),
        };
        *counter = counter.wrapping_add(1);
        received
    }

    /// The connection is over: what is open on it, in either direction, gets no answer.
    pub fn handle_gone(&mut self, peer: C) {
        while let Some((_, asker)) = self.asked.remove_any(peer) {
            self.events.push_back(Event::Gone { asker });
        }
        while let Some((_, watcher)) = self.answering.remove_any(peer) {
            self.events.push_back(Event::Dropped { watcher });
        }
    }

    /// To be called when [`Requests::poll_timeout`] has come. Earlier calls do nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((peer, id, asker)) = self.asked.remove_due(now) {
            self.events.push_back(Event::TimedOut { peer, id, asker });
        }
        while let Some((_, _, watcher)) = self.answering.remove_due(now) {
            self.events.push_back(Event::Dropped { watcher });
        }
    }

    /// What has happened by itself. To be called until `None` after [`Requests::handle_gone`] and
    /// [`Requests::handle_timeout`].
    pub fn poll_event(&mut self) -> Option<Event<C, A, W>> {
        let event = self.events.pop_front();
        if self.events.is_empty() {
            // Thousands may have come at once; none of them is to be paid for afterwards.
            self.events = VecDeque::new();
        }
        event
    }

    /// When to call [`Requests::handle_timeout`]. `None`: nothing is open.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let deadlines = [self.asked.deadline(), self.answering.deadline()];
        deadlines.into_iter().flatten().min()
    }

    /// Whether a connection has no open request in either direction.
    pub fn is_idle(&self, peer: C) -> bool {
        self.asked.of_peer(peer) == 0 && self.answering.of_peer(peer) == 0
    }

    /// Requests that are open: ours, and those of peers.
    pub fn open(&self) -> (usize, usize) {
        (self.asked.len(), self.answering.len())
    }

    /// What was counted.
    pub fn stats(&self) -> RequestStats {
        self.stats
    }
}

#[cfg(test)]
impl<C, A, W> Requests<C, A, W> {
    /// As if so many requests had been asked.
    pub(super) fn skip_ids(&mut self, count: u32) {
        self.next_id = self.next_id.wrapping_add(count);
    }
}
