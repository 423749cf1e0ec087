//! The whole machine: finds and results in, dials out.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mischief_reactor::{Instant, Random};

use super::error::Fault;
use super::find::{Find, Source};
use crate::identity::PeerId;

/// Candidates that are remembered. Beyond it one that has failed goes, the one with the most failures first; if there is none,
/// the new one is not taken.
pub const CANDIDATES_MAX: usize = 512;
/// Addresses of one candidate. Beyond it the oldest goes.
pub const ADDRS_MAX: usize = 8;
/// Candidates that are dialled at the same time.
pub const DIALS_MAX: usize = 4;
/// Peers that a node wants unless told otherwise: with this many it dials nobody that was found.
pub const WANTED_DEFAULT: u32 = 32;

/// What the node with the smaller id waits before it dials, at least: a source tells addresses one by one.
const GATHER_WAIT: Duration = Duration::from_millis(20);
/// And by chance besides, at most: machines that were switched on together.
const FIRST_WAIT: Duration = Duration::from_millis(80);
/// What the other one waits besides: the first one will have connected by then, if it has found us as well.
const POLITE_WAIT: Duration = Duration::from_millis(400);
/// The longest time between two tries.
const RETRY_MAX: Duration = Duration::from_secs(600);
/// After a connection has ended.
const AFTER_END: Duration = Duration::from_secs(10);

/// A dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DialNumber(pub u32);

/// An order to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dial {
    /// What to report the result with.
    pub number: DialNumber,
    /// Where to.
    pub addr: SocketAddr,
    /// Who has to be there.
    pub expected: Option<PeerId>,
}

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DiscoveryEvent {
    /// Somebody was found by this source for the first time, or at an address that was not known.
    Found(Find),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Peer(PeerId),
    Addr(SocketAddr),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// To be dialled, not before this.
    Idle(Instant),
    /// So many of its addresses are being dialled.
    Dialling(u8),
    Connected,
}

#[derive(Debug)]
struct Known {
    addrs: VecDeque<SocketAddr>,
    sources: Vec<Source>,
    state: State,
    failures: u8,
    /// The worst of the dial that is under way.
    fault: Option<Fault>,
}

/// Somebody who was found, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Who, if that is known.
    pub peer_id: Option<PeerId>,
    /// Where.
    pub addrs: Vec<SocketAddr>,
    /// Who has said so, in order.
    pub sources: Vec<Source>,
    /// Whether it is connected.
    pub is_connected: bool,
}

/// Decides whom to dial. After every call take [`Discovery::poll_dial`] and [`Discovery::poll_event`] until they give `None`.
#[derive(Debug)]
pub struct Discovery {
    own: PeerId,
    wanted: u32,
    /// In the order of the keys.
    known: Vec<(Key, Known)>,
    /// Connected peers, found or not.
    connected: usize,
    dials: Vec<(DialNumber, Key)>,
    next_number: u32,
    orders: VecDeque<Dial>,
    events: VecDeque<DiscoveryEvent>,
}

impl Discovery {
    /// A node that has found nobody. It dials as long as it has fewer than `wanted` peers.
    pub fn new(own: PeerId, wanted: u32) -> Discovery {
        Discovery {
            own,
            wanted,
            known: Vec::new(),
            connected: 0,
            dials: Vec::new(),
            next_number: 0,
            orders: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// How many peers are connected, whoever dialled. To be told before every other call: the node has that number anyway,
    /// and a list of them here would cost memory for each.
    pub fn set_connected(&mut self, connected: usize) {
        self.connected = connected;
    }

    /// A source has found somebody. `is_connected` says whether that is a connected peer.
    pub fn handle_find(
        &mut self,
        now: Instant,
        find: Find,
        is_connected: bool,
        random: &mut dyn Random,
    ) {
        if find.peer_id == Some(self.own) || !can_be_dialled(find.addr) {
            return;
        }
        let key = match find.peer_id {
            Some(peer) => Key::Peer(peer),
            None => Key::Addr(find.addr),
        };
        if self.place(&key).is_err() && !self.make_room() {
            return;
        }
        let wait = self.first_wait(find.peer_id, random);
        let new = Known {
            addrs: VecDeque::new(),
            sources: Vec::new(),
            state: if is_connected {
                State::Connected
            } else {
                State::Idle(now + wait)
            },
            failures: 0,
            fault: None,
        };
        let at = match self.place(&key) {
            Ok(at) => at,
            Err(at) => {
                self.known.insert(at, (key, new));
                at
            }
        };
        let known = &mut self.known[at].1;
        let is_new_addr = !known.addrs.contains(&find.addr);
        if is_new_addr {
            if known.addrs.len() >= ADDRS_MAX {
                known.addrs.pop_front();
            }
            known.addrs.push_back(find.addr);
            if let State::Idle(at) = known.state
                && known.failures > 0
            {
                // It has moved: what failed before says nothing about there.
                known.state = State::Idle(at.min(now + wait));
            }
        }
        let is_new_source = !known.sources.contains(&find.source);
        if is_new_source {
            known.sources.push(find.source);
        }
        if is_new_source || is_new_addr {
            self.events.push_back(DiscoveryEvent::Found(find));
        }
        self.order(now);
    }

    /// A source says that a peer is no longer where it was found. It is not dialled until somebody finds it again.
    pub fn handle_gone(&mut self, peer: PeerId, source: Source) {
        let key = Key::Peer(peer);
        if let Some(known) = self.get_mut(&key) {
            known.sources.retain(|other| *other != source);
            if known.sources.is_empty() && matches!(known.state, State::Idle(_)) {
                self.forget(&key);
            }
        }
    }

    /// A peer is connected, whoever dialled.
    pub fn handle_connected(&mut self, peer: PeerId) {
        if let Some(known) = self.get_mut(&Key::Peer(peer)) {
            (known.state, known.failures, known.fault) = (State::Connected, 0, None);
        }
    }

    /// A peer is not connected any more.
    pub fn handle_disconnected(&mut self, now: Instant, peer: PeerId, random: &mut dyn Random) {
        let wait = AFTER_END + self.first_wait(Some(peer), random);
        let key = Key::Peer(peer);
        if let Some(known) = self.get_mut(&key) {
            if known.sources.is_empty() {
                self.forget(&key);
            } else {
                known.state = State::Idle(now + wait);
            }
        }
        self.order(now);
    }

    /// What became of a dial.
    pub fn handle_dialled(
        &mut self,
        now: Instant,
        number: DialNumber,
        result: Result<PeerId, Fault>,
    ) {
        let Some(at) = self.dials.iter().position(|(other, _)| *other == number) else {
            return;
        };
        let (_, key) = self.dials.swap_remove(at);
        if let Some(known) = self.get_mut(&key) {
            match result {
                // That it is connected is told separately, and may have ended since.
                Ok(_) if known.state == State::Connected => {}
                Ok(_) => known.state = State::Idle(now + AFTER_END),
                Err(fault) => known.fail(now, fault),
            }
            // An address that turned out to be somebody's belongs to that peer's candidate, if there is one.
            if let (Key::Addr(_), Ok(_)) = (key, result) {
                known.failures = 0;
            }
        }
        self.order(now);
    }

    /// How many peers the node wants.
    pub fn set_wanted(&mut self, now: Instant, wanted: u32) {
        self.wanted = wanted;
        self.order(now);
    }

    /// The deadline of [`Discovery::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.order(now);
    }

    /// The next dial.
    pub fn poll_dial(&mut self) -> Option<Dial> {
        self.orders.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<DiscoveryEvent> {
        self.events.pop_front()
    }

    /// When to call [`Discovery::handle_timeout`]; never while nobody more is wanted.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if !self.wants_more() || self.dialling() >= DIALS_MAX {
            return None;
        }
        let idle = self
            .known
            .iter()
            .filter_map(|(_, known)| match known.state {
                State::Idle(at) => Some(at),
                _ => None,
            });
        idle.min()
    }

    /// Everybody who was found.
    pub fn candidates(&self) -> Vec<Candidate> {
        let candidate = |(key, known): &(Key, Known)| Candidate {
            peer_id: match key {
                Key::Peer(peer) => Some(*peer),
                Key::Addr(_) => None,
            },
            addrs: known.addrs.iter().copied().collect(),
            sources: known.sources.clone(),
            is_connected: known.state == State::Connected,
        };
        self.known.iter().map(candidate).collect()
    }

    /// Bytes it owns outside of itself, roughly.
    pub fn heap_bytes(&self) -> usize {
        let addrs: usize = self.known.iter().map(|(_, known)| known.addrs.len()).sum();
        self.known.len() * (size_of::<Key>() + size_of::<Known>() + 48)
            + addrs * size_of::<SocketAddr>()
    }

    fn place(&self, key: &Key) -> Result<usize, usize> {
        self.known.binary_search_by(|(other, _)| other.cmp(key))
    }

    fn get_mut(&mut self, key: &Key) -> Option<&mut Known> {
        self.place(key).ok().map(|at| &mut self.known[at].1)
    }

    fn forget(&mut self, key: &Key) -> bool {
        let place = self.place(key);
        place.map(|at| self.known.remove(at)).is_ok()
    }

    fn dialling(&self) -> usize {
        let is_dialling = |(_, known): &&(Key, Known)| matches!(known.state, State::Dialling(_));
        self.known.iter().filter(is_dialling).count()
    }

    fn wants_more(&self) -> bool {
        self.connected + self.dialling() < self.wanted as usize
    }

    /// Dials those that are due, the longest due first.
    fn order(&mut self, now: Instant) {
        while self.wants_more() && self.dialling() < DIALS_MAX {
            let due = self
                .known
                .iter()
                .filter_map(|(key, known)| match known.state {
                    State::Idle(at) if at <= now => Some((at, *key)),
                    _ => None,
                });
            let Some((_, key)) = due.min() else {
                return;
            };
            let Ok(at) = self.place(&key) else {
                return;
            };
            let known = &mut self.known[at].1;
            known.state = State::Dialling(known.addrs.len() as u8);
            known.fault = None;
            let expected = match key {
                Key::Peer(peer) => Some(peer),
                Key::Addr(_) => None,
            };
            for addr in &known.addrs {
                self.next_number = self.next_number.wrapping_add(1);
                let number = DialNumber(self.next_number);
                self.dials.push((number, key));
                self.orders.push_back(Dial {
                    number,
                    addr: *addr,
                    expected,
                });
            }
        }
    }

    fn first_wait(&self, peer: Option<PeerId>, random: &mut dyn Random) -> Duration {
        let by_chance = Duration::from_millis(random.below(FIRST_WAIT.as_millis() as u64));
        let by_chance = GATHER_WAIT + by_chance;
        match peer {
            Some(peer) if self.own.as_bytes() < peer.as_bytes() => by_chance,
            Some(_) => POLITE_WAIT + by_chance,
            None => by_chance * 5,
        }
    }

    fn make_room(&mut self) -> bool {
        if self.known.len() < CANDIDATES_MAX {
            return true;
        }
        let failed = self
            .known
            .iter()
            .filter(|(_, known)| matches!(known.state, State::Idle(_)) && known.failures > 0);
        let worst = failed
            .max_by_key(|(_, known)| known.failures)
            .map(|(key, _)| *key);
        worst.is_some_and(|key| self.forget(&key))
    }
}

impl Known {
    /// One of its addresses has failed; with the last one it waits.
    fn fail(&mut self, now: Instant, fault: Fault) {
        let State::Dialling(left) = self.state else {
            return;
        };
        if self.fault.is_none() || fault != Fault::Transient {
            self.fault = Some(fault);
        }
        if left > 1 {
            self.state = State::Dialling(left - 1);
            return;
        }
        let first = self.fault.unwrap_or(fault).first_wait();
        let wait = first
            .saturating_mul(1 << self.failures.min(16))
            .min(RETRY_MAX.max(first));
        self.failures = self.failures.saturating_add(1);
        self.state = State::Idle(now + wait);
    }
}

/// Whether an address can be that of a peer at all.
fn can_be_dialled(addr: SocketAddr) -> bool {
    let is_broadcast = addr.ip() == IpAddr::from([255; 4]);
    addr.port() != 0 && !addr.ip().is_unspecified() && !addr.ip().is_multicast() && !is_broadcast
}
