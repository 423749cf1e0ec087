//! Dialling one node over several addresses: Happy Eyeballs version 2 (RFC 8305).
//!
//! [`Dial`] is told the addresses as name resolution finds them and says which to try when. The first TCP connection that
//! completes wins and the others are given up. If the handshake on the winner then fails in a way that another address may
//! cure ([`AttemptFailure::may_be_cured_elsewhere`]), the race goes on with the rest: an old address of a peer may today
//! belong to a stranger.
//!
//! Left out: history of round-trip times (RFC 8305 §4) and the address selection of RFC 6724. Within a family the order
//! given by the resolver is kept, which on all common systems is that of RFC 6724 already.
//!
//! After every `handle_*` call the owner drains [`Dial::poll_action`] and [`Dial::poll_event`] and sleeps until
//! [`Dial::poll_timeout`].

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use mischief_reactor::Instant;
use smallvec::SmallVec;

pub use super::dial_error::{AttemptFailure, DialError, FailedAttempt, ResolveFailure};
pub use super::endpoint::{AddrError, Endpoint, parse_addr, parse_listen_addr};

/// How long the answer for IPv6 is waited for once IPv4 addresses are there (RFC 8305 §8, "Resolution Delay").
pub const RESOLUTION_DELAY: Duration = Duration::from_millis(50);
/// Time from the start of one attempt to the start of the next (RFC 8305 §8, "Connection Attempt Delay").
pub const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// No attempt starts sooner after the one before, not even when that one has failed (RFC 8305 §5: MUST NOT).
pub const ATTEMPT_DELAY_MIN: Duration = Duration::from_millis(10);
/// Upper bound of the attempt delay (RFC 8305 §8, "Maximum Connection Attempt Delay").
pub const ATTEMPT_DELAY_MAX: Duration = Duration::from_secs(2);
/// Addresses tried for one dial; what comes beyond is counted and left alone.
pub const ADDRESSES_MAX: usize = 8;

/// The times of a dial. Every field has its default from this module's constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DialConfig {
    /// See [`RESOLUTION_DELAY`].
    pub resolution_delay: Duration,
    /// See [`ATTEMPT_DELAY`]; brought into [`ATTEMPT_DELAY_MIN`] to [`ATTEMPT_DELAY_MAX`].
    pub attempt_delay: Duration,
    /// How long one TCP connection may take to open.
    pub connect_deadline: Duration,
    /// How long name resolution and all attempts may take together. The handshake on the winner does not count; it has a
    /// deadline of its own.
    pub total_deadline: Duration,
    /// Whether the other addresses are tried when the handshake on the winner fails. If not, the dial ends with
    /// [`DialEvent::Won`].
    pub goes_on_after_handshake: bool,
}

impl Default for DialConfig {
    fn default() -> Self {
        DialConfig {
            resolution_delay: RESOLUTION_DELAY,
            attempt_delay: ATTEMPT_DELAY,
            connect_deadline: Duration::from_secs(10),
            total_deadline: Duration::from_secs(20),
            goes_on_after_handshake: true,
        }
    }
}

/// One attempt of a dial. Never used twice within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId(pub u8);

/// Which address families an answer of the resolver speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    /// The whole answer, or an address that needed no resolution.
    Both,
    /// The answer to the IPv6 (AAAA) question.
    V6,
    /// The answer to the IPv4 (A) question.
    V4,
    /// None: the addresses are from elsewhere, and whatever is being looked up still is.
    None,
}

/// What the owner has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialAction {
    /// Start to connect, and report with [`Dial::handle_connected`] or [`Dial::handle_failed`].
    Connect {
        /// The attempt.
        attempt: AttemptId,
        /// Where to.
        addr: SocketAddr,
    },
    /// Close the attempt's socket. What it reports afterwards is ignored.
    Cancel {
        /// The attempt.
        attempt: AttemptId,
    },
}

/// How far the dial got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DialEvent {
    /// This attempt's connection is the one to use; report how its handshake went.
    Won {
        /// The attempt.
        attempt: AttemptId,
        /// Its address.
        addr: SocketAddr,
    },
    /// Nothing is left to try. The dial is over.
    Failed(DialError),
}

/// One dial. See the module's text.
#[derive(Debug)]
pub struct Dial {
    config: DialConfig,
    deadline: Instant,
    stage: Stage,
    v6: Queue,
    v4: Queue,
    /// When the first IPv4 address came while IPv6 was unanswered: the resolution delay runs from here.
    v4_alone_since: Option<Instant>,
    /// Attempts in the air.
    open: SmallVec<[Attempt; 2]>,
    failed: Vec<FailedAttempt>,
    resolve_error: Option<io::ErrorKind>,
    /// Number of the next attempt.
    next_attempt: u8,
    last_start: Option<LastStart>,
    /// Addresses that have been given a try, at most [`ADDRESSES_MAX`].
    tried: SmallVec<[SocketAddr; 2]>,
    /// Whether an address was passed over because its queue was full.
    is_cut: bool,
    actions: VecDeque<DialAction>,
    event: Option<DialEvent>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Addresses are looked up and tried.
    Racing,
    /// One attempt has won and its handshake runs.
    Shaking(Attempt),
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Attempt {
    id: AttemptId,
    addr: SocketAddr,
    deadline: Instant,
}

#[derive(Clone, Copy, Debug)]
struct LastStart {
    at: Instant,
    is_v6: bool,
    /// The next attempt may start from here on.
    next_at: Instant,
}

#[derive(Debug)]
struct Queue {
    addrs: VecDeque<SocketAddr>,
    /// Lookups of this family without an answer.
    lookups: u8,
}

impl Queue {
    /// A dial begins with one lookup of each family.
    fn new() -> Queue {
        Queue {
            addrs: VecDeque::new(),
            lookups: 1,
        }
    }

    fn is_answered(&self) -> bool {
        self.lookups == 0
    }
}

impl Dial {
    /// A dial that begins now, without addresses.
    pub fn new(now: Instant, config: DialConfig) -> Dial {
        let attempt_delay = config
            .attempt_delay
            .clamp(ATTEMPT_DELAY_MIN, ATTEMPT_DELAY_MAX);
        Dial {
            config: DialConfig {
                attempt_delay,
                ..config
            },
            deadline: now + config.total_deadline,
            stage: Stage::Racing,
            v6: Queue::new(),
            v4: Queue::new(),
            v4_alone_since: None,
            open: SmallVec::new(),
            failed: Vec::new(),
            resolve_error: None,
            next_attempt: 0,
            last_start: None,
            tried: SmallVec::new(),
            is_cut: false,
            actions: VecDeque::new(),
            event: None,
        }
    }

    /// One more name is looked up for this dial, beside the one that it began with. Its answer is awaited as well.
    pub fn handle_lookup(&mut self) {
        self.v6.lookups = self.v6.lookups.saturating_add(1);
        self.v4.lookups = self.v4.lookups.saturating_add(1);
    }

    /// Addresses have been found. `families` says which questions are thereby answered; the addresses may be of any family.
    /// Addresses that are known already are passed over, as are those beyond [`ADDRESSES_MAX`] of one family.
    pub fn handle_addresses(&mut self, now: Instant, families: Families, addrs: &[SocketAddr]) {
        if self.stage == Stage::Over {
            return;
        }
        for &addr in addrs {
            self.add(addr);
        }
        self.mark_answered(families);
        if !self.v6.is_answered() && !self.v4.addrs.is_empty() && self.v4_alone_since.is_none() {
            self.v4_alone_since = Some(now);
        }
        self.advance(now);
    }

    /// A lookup failed; `families` says which questions are thereby answered.
    pub fn handle_resolve_failed(
        &mut self,
        now: Instant,
        families: Families,
        error: io::ErrorKind,
    ) {
        self.resolve_error = Some(error);
        self.mark_answered(families);
        self.advance(now);
    }

    /// An attempt's TCP connection is open.
    pub fn handle_connected(&mut self, now: Instant, attempt: AttemptId) {
        // An attempt that was given up may complete before the order to close it arrives.
        let Some(winner) = self.take_open(attempt) else {
            return;
        };
        // From the last to the first, so that they are queued again in the order in which they were started.
        for other in std::mem::take(&mut self.open).into_iter().rev() {
            self.actions
                .push_back(DialAction::Cancel { attempt: other.id });
            // It has not failed: should the winner's handshake fail, it gets its turn again, before the untried ones.
            self.queue_of(other.addr).addrs.push_front(other.addr);
        }
        self.event = Some(DialEvent::Won {
            attempt: winner.id,
            addr: winner.addr,
        });
        self.stage = if self.config.goes_on_after_handshake {
            Stage::Shaking(winner)
        } else {
            Stage::Over
        };
        self.advance(now);
    }

    /// An attempt's TCP connection could not be opened.
    pub fn handle_failed(&mut self, now: Instant, attempt: AttemptId, failure: AttemptFailure) {
        let Some(failed) = self.take_open(attempt) else {
            return;
        };
        self.record_failure(now, failed.addr, failure);
        self.advance(now);
    }

    /// The winner's handshake is done and the connection is in use. The dial is over.
    pub fn handle_handshake_done(&mut self) {
        self.stage = Stage::Over;
    }

    /// The winner's handshake failed. Its socket is the owner's to close.
    pub fn handle_handshake_failed(
        &mut self,
        now: Instant,
        attempt: AttemptId,
        failure: AttemptFailure,
    ) {
        let Stage::Shaking(winner) = self.stage else {
            return;
        };
        if winner.id != attempt {
            return;
        }
        self.stage = Stage::Racing;
        self.record_failure(now, winner.addr, failure);
        if !failure.may_be_cured_elsewhere() {
            self.fail(DialError::AllFailed {
                attempts: self.failed.clone().into(),
                is_cut: false,
            });
        }
        self.advance(now);
    }

    /// The time that [`Dial::poll_timeout`] gave has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.stage == Stage::Racing {
            while let Some(late) = self
                .open
                .iter()
                .find(|attempt| attempt.deadline <= now)
                .copied()
            {
                self.take_open(late.id);
                self.actions
                    .push_back(DialAction::Cancel { attempt: late.id });
                self.record_failure(now, late.addr, AttemptFailure::TimedOut);
            }
        }
        self.advance(now);
    }

    /// Gives the dial up: every attempt in the air is cancelled and no event follows.
    pub fn cancel(&mut self) {
        for attempt in std::mem::take(&mut self.open) {
            self.actions.push_back(DialAction::Cancel {
                attempt: attempt.id,
            });
        }
        if let Stage::Shaking(winner) = self.stage {
            self.actions
                .push_back(DialAction::Cancel { attempt: winner.id });
        }
        self.event = None;
        self.stage = Stage::Over;
    }

    /// What to do next.
    pub fn poll_action(&mut self) -> Option<DialAction> {
        self.actions.pop_front()
    }

    /// What has been reached.
    pub fn poll_event(&mut self) -> Option<DialEvent> {
        self.event.take()
    }

    /// When to call [`Dial::handle_timeout`]; `None` when there is nothing to wait for.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.stage != Stage::Racing {
            return None;
        }
        let attempts = self.open.iter().map(|attempt| attempt.deadline).min();
        [Some(self.deadline), attempts, self.next_start()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether nothing more will come of this dial.
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// Starts what is due and notices the end.
    fn advance(&mut self, now: Instant) {
        if self.stage != Stage::Racing {
            return;
        }
        if now >= self.deadline {
            for late in std::mem::take(&mut self.open) {
                self.actions
                    .push_back(DialAction::Cancel { attempt: late.id });
                self.failed.push(FailedAttempt {
                    addr: late.addr,
                    failure: AttemptFailure::TimedOut,
                });
            }
            return self.fail(DialError::TimedOut {
                attempts: self.failed.clone().into(),
            });
        }
        // One start arms the delay for the next, so this runs at most once in practice.
        while self.next_start().is_some_and(|at| at <= now) {
            self.start(now);
        }
        let is_exhausted =
            self.open.is_empty() && self.next_family().is_none() && self.is_answered();
        if is_exhausted {
            let error = if self.failed.is_empty() {
                DialError::NoAddress(ResolveFailure {
                    error: self.resolve_error,
                })
            } else {
                let is_cut = self.is_cut || !self.v6.addrs.is_empty() || !self.v4.addrs.is_empty();
                DialError::AllFailed {
                    attempts: self.failed.clone().into(),
                    is_cut,
                }
            };
            self.fail(error);
        }
    }

    /// When the next attempt starts by itself, `None` if there is no address for it.
    fn next_start(&self) -> Option<Instant> {
        let is_v6 = self.next_family()?;
        match self.last_start {
            Some(last) => Some(last.next_at),
            // RFC 8305 §3: IPv6 goes at once; IPv4 waits a moment for an unfinished IPv6 lookup.
            None if is_v6 || self.v6.is_answered() => Some(Instant::ZERO),
            None => Some(self.v4_alone_since.unwrap_or_default() + self.config.resolution_delay),
        }
    }

    /// Whether the next address is an IPv6 one: the families take turns, IPv6 first (RFC 8305 §4 with a First Address Family
    /// Count of 1).
    fn next_family(&self) -> Option<bool> {
        let prefers_v6 = self.last_start.is_none_or(|last| !last.is_v6);
        // What was cancelled in favour of a winner stands in front and may be tried again.
        let may_try = |queue: &Queue| {
            queue
                .addrs
                .front()
                .is_some_and(|addr| self.tried.len() < ADDRESSES_MAX || self.tried.contains(addr))
        };
        match (may_try(&self.v6), may_try(&self.v4)) {
            (true, true) => Some(prefers_v6),
            (true, false) => Some(true),
            (false, true) => Some(false),
            (false, false) => None,
        }
    }

    fn start(&mut self, now: Instant) {
        let Some(is_v6) = self.next_family() else {
            return;
        };
        let queue = if is_v6 { &mut self.v6 } else { &mut self.v4 };
        let addr = queue
            .addrs
            .pop_front()
            .expect("the next family has an address");
        let id = AttemptId(self.next_attempt);
        // At most eight addresses, each of which is cancelled at most once per other winner: 64 attempts at most.
        self.next_attempt += 1;
        if !self.tried.contains(&addr) {
            self.tried.push(addr);
        }
        self.open.push(Attempt {
            id,
            addr,
            deadline: now + self.config.connect_deadline,
        });
        self.last_start = Some(LastStart {
            at: now,
            is_v6,
            next_at: now + self.config.attempt_delay,
        });
        self.actions
            .push_back(DialAction::Connect { attempt: id, addr });
    }

    fn record_failure(&mut self, now: Instant, addr: SocketAddr, failure: AttemptFailure) {
        self.failed.push(FailedAttempt { addr, failure });
        // The next attempt need not wait for its delay when this one is known to lead nowhere.
        if let Some(last) = &mut self.last_start {
            last.next_at = last.next_at.min(now.max(last.at + ATTEMPT_DELAY_MIN));
        }
    }

    fn fail(&mut self, error: DialError) {
        self.event = Some(DialEvent::Failed(error));
        self.stage = Stage::Over;
    }

    fn add(&mut self, addr: SocketAddr) {
        let addr = match Endpoint::from(addr) {
            Endpoint::Address(addr) => addr,
            _ => addr,
        };
        let is_shaking = matches!(self.stage, Stage::Shaking(winner) if winner.addr == addr);
        let is_known = is_shaking
            || self.v6.addrs.contains(&addr)
            || self.v4.addrs.contains(&addr)
            || self.open.iter().any(|attempt| attempt.addr == addr)
            || self.failed.iter().any(|failed| failed.addr == addr);
        if is_known {
            return;
        }
        let queue = self.queue_of(addr);
        if queue.addrs.len() < ADDRESSES_MAX {
            queue.addrs.push_back(addr);
        } else {
            self.is_cut = true;
        }
    }

    fn mark_answered(&mut self, families: Families) {
        if matches!(families, Families::Both | Families::V6) {
            self.v6.lookups = self.v6.lookups.saturating_sub(1);
        }
        if matches!(families, Families::Both | Families::V4) {
            self.v4.lookups = self.v4.lookups.saturating_sub(1);
        }
    }

    fn is_answered(&self) -> bool {
        self.v6.is_answered() && self.v4.is_answered()
    }

    fn queue_of(&mut self, addr: SocketAddr) -> &mut Queue {
        if addr.is_ipv6() {
            &mut self.v6
        } else {
            &mut self.v4
        }
    }

    fn take_open(&mut self, id: AttemptId) -> Option<Attempt> {
        let index = self.open.iter().position(|attempt| attempt.id == id)?;
        Some(self.open.remove(index))
    }
}

#[cfg(test)]
#[path = "tests/dial.rs"]
mod tests;
