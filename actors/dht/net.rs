//! One of the two DHTs that we take part in (BEP 32): its table, our id and address there, and whether we are reached.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mischief_reactor::{Instant, Random};

use super::address::{Family, is_local, is_usable};
use super::config::Role;
use super::dice::Dice;
use super::node_id::NodeId;
use super::operation::OperationId;
use super::routing::RoutingTable;
use super::votes::Votes;

/// Addresses to begin at that are remembered.
pub const BEGIN_MAX: usize = 160;

/// How long we remember whom we have sent something to, at least; at most twice as long. NAT boxes forget sooner.
pub const SENT_MEMORY: Duration = Duration::from_secs(5 * 60);

/// A server that no stranger has asked for so long may not be reached any more.
pub const CONFIRM_WITHIN: Duration = Duration::from_secs(30 * 60);

/// In a smaller network everybody knows everybody, and no stranger is left to ask.
const CONFIRM_SIZE_MIN: f64 = 2000.0;

/// Pings to ourselves are at least so far apart.
pub const SELF_PING_INTERVAL: Duration = Duration::from_secs(10);

/// One family.
pub(crate) struct Net {
    pub(crate) family: Family,
    pub(crate) table: RoutingTable,
    pub(crate) votes: Votes,
    /// Where our socket is.
    pub(crate) local: SocketAddr,
    /// Where to begin: saved nodes and given addresses.
    pub(crate) begin: VecDeque<(Option<NodeId>, SocketAddr)>,
    pub(crate) is_ready: bool,
    /// The lookup that fills the table.
    pub(crate) filling: Option<OperationId>,
    pub(crate) fill_at: Option<Instant>,
    /// Fills that found nobody, in a row.
    pub(crate) failures: u32,
    /// Distant places that are still to be looked up.
    pub(crate) fills_left: usize,
    /// The neighbourhood has been looked up again after the beginning.
    pub(crate) is_settled: bool,
    /// About how many nodes there are.
    pub(crate) size: Option<f64>,
    pub(crate) is_server: bool,
    pub(crate) confirmed: Instant,
    pub(crate) self_pinged: Option<Instant>,
    sent: [[u64; 16]; 2],
    sent_since: Instant,
}

impl Net {
    pub(crate) fn new(
        now: Instant,
        local: SocketAddr,
        role: Role,
        checks_ids: bool,
        dice: &mut Dice,
    ) -> Net {
        Net {
            family: Family::of(local),
            table: RoutingTable::new(NodeId::random(dice), checks_ids),
            votes: Votes::new(now),
            local,
            begin: VecDeque::new(),
            is_ready: false,
            filling: None,
            fill_at: None,
            failures: 0,
            fills_left: 0,
            is_settled: false,
            size: None,
            is_server: role == Role::Server,
            confirmed: now,
            self_pinged: None,
            sent: [[0; 16]; 2],
            sent_since: now,
        }
    }

    /// Whether we may send to this address: a socket on the loopback interface reaches nobody else, and is not asked to.
    pub(crate) fn reaches(&self, addr: SocketAddr) -> bool {
        is_usable(addr)
            && Family::of(addr) == self.family
            && (!self.local.ip().is_loopback() || addr.ip().is_loopback())
    }

    pub(crate) fn add_begin(&mut self, id: Option<NodeId>, addr: SocketAddr) {
        if !self.reaches(addr) || self.begin.iter().any(|(_, known)| *known == addr) {
            return;
        }
        if self.begin.len() == BEGIN_MAX {
            self.begin.pop_front();
        }
        self.begin.push_back((id, addr));
    }

    /// Remembers whom we have sent something to: what comes from there proves nothing.
    pub(crate) fn note_sent(&mut self, now: Instant, to: SocketAddr) {
        let age = now.saturating_duration_since(self.sent_since);
        if age >= SENT_MEMORY {
            self.sent[1] = if age < 2 * SENT_MEMORY {
                self.sent[0]
            } else {
                [0; 16]
            };
            self.sent[0] = [0; 16];
            self.sent_since = now;
        }
        let (word, bit) = sent_place(to);
        self.sent[0][word] |= bit;
    }

    /// Whether we have sent nothing to this address for a while, so that its query came through no hole that we made. It is
    /// sometimes `false` for strangers, never `true` for others.
    pub(crate) fn is_stranger(&self, from: SocketAddr) -> bool {
        let (word, bit) = sent_place(from);
        (self.sent[0][word] | self.sent[1][word]) & bit == 0
    }

    /// Whether a stranger should have asked by now.
    pub(crate) fn is_unconfirmed(&self, now: Instant) -> bool {
        let is_private = self.votes.decided().is_none_or(is_local);
        self.is_server
            && !is_private
            && self.size.is_some_and(|size| size >= CONFIRM_SIZE_MIN)
            && now.saturating_duration_since(self.confirmed) >= CONFIRM_WITHIN
    }

    /// Where a ping to ourselves goes now, if one is due.
    pub(crate) fn self_ping(&mut self, now: Instant) -> Option<SocketAddr> {
        let rested = self
            .self_pinged
            .is_none_or(|last| now.saturating_duration_since(last) >= SELF_PING_INTERVAL);
        let to = self
            .votes
            .likely()
            .filter(|to| rested && self.reaches(*to))?;
        self.self_pinged = Some(now);
        Some(to)
    }

    /// Whether our id fits our address. As long as the address is unknown, it does.
    pub(crate) fn has_valid_id(&self) -> bool {
        self.votes
            .decided()
            .is_none_or(|ip| self.table.own().is_valid_for(ip))
    }

    /// Takes an id that fits our address.
    pub(crate) fn renew_id(&mut self, ip: IpAddr, random: &mut dyn Random) {
        self.table.set_own(NodeId::for_ip(ip, random));
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.table.heap_bytes() + self.begin.capacity() * size_of::<(Option<NodeId>, SocketAddr)>()
    }
}

/// The bit of an address in a filter of 1,024. On a local network ports count, elsewhere NAT boxes that let in whoever has the
/// right address are common.
fn sent_place(addr: SocketAddr) -> (usize, u64) {
    let port = if is_local(addr.ip()) { addr.port() } else { 0 };
    let ip = match addr.ip() {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    };
    let mixed =
        (ip as u64 ^ (ip >> 64) as u64 ^ u64::from(port) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let index = (mixed >> 54) as usize;
    (index / 64, 1 << (index % 64))
}
