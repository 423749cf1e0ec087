//! Who is let in: what bans and protection do to those who are there, and who comes under a name that is taken.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::time::Duration;

use mischief_reactor::Instant;

use super::PeerId;
use super::bans::{BansFull, Target};
use super::message::Order;
use super::network::Network;
use super::notice::Notice;
use super::reconnect::GaveUp;
use super::store::PROTECTED_MAX;
use crate::connection::{DisconnectReason, Endpoint, RefusedReason};

/// Peers of which is remembered that they were seen twice.
const TWICE_MAX: usize = 64;
/// So often within [`TWICE_WINDOW`] a peer has to be seen twice before it is reported: once may be a machine that changed its
/// address while its old connection still seemed alive.
const TWICE_MIN: u32 = 3;
const TWICE_WINDOW: Duration = Duration::from_secs(600);

#[derive(Clone, Copy, Debug)]
pub(super) struct Twice {
    count: u32,
    since: Instant,
    is_told: bool,
}

impl<C: Copy + Ord + Debug> Network<C> {
    /// Bans somebody until the ban is lifted, before the node starts.
    pub fn deny(&mut self, target: Target) -> Result<(), BansFull> {
        self.bans.ban(target, None)
    }

    /// Bans a peer or a range, for a while or for good, and disconnects whom it concerns. Returns the number of the change,
    /// which [`Network::is_saved`] asks for.
    pub fn handle_ban(
        &mut self,
        now: Instant,
        target: Target,
        lasts: Option<Duration>,
    ) -> Result<u64, BansFull> {
        let until = lasts.map(|lasts| now.saturating_add(lasts));
        self.bans.ban(target, until)?;
        self.notices.push_back(Notice::Banned { target, lasts });
        self.enforce_bans(now);
        Ok(self.saving.mark(now, Duration::ZERO))
    }

    /// Lifts a ban. `None` if there is none.
    pub fn handle_unban(&mut self, now: Instant, target: &Target) -> Option<u64> {
        if !self.bans.unban(target) {
            return None;
        }
        let (target, is_expired) = (*target, false);
        self.notices
            .push_back(Notice::Unbanned { target, is_expired });
        Some(self.saving.mark(now, Duration::ZERO))
    }

    /// Has a peer never be trimmed and never be given up, or again like all others. `None` if as many are protected as can be.
    pub fn handle_protect(
        &mut self,
        now: Instant,
        peer: PeerId,
        is_protected: bool,
    ) -> Option<u64> {
        let is_new = is_protected && !self.peers.protected.contains(&peer);
        if is_new && self.peers.protected.len() >= PROTECTED_MAX {
            return None;
        }
        self.peers.handle_protect(peer, is_protected);
        Some(self.saving.mark(now, Duration::ZERO))
    }

    pub(super) fn refuse_banned(&mut self, connection: C) {
        let reason = RefusedReason::Banned;
        self.peers
            .orders
            .push_back(Order::Refuse { connection, reason });
    }

    /// Disconnects whoever is banned.
    fn enforce_bans(&mut self, now: Instant) {
        let table = self.peers.table.read();
        let banned = table
            .places()
            .filter(|place| !self.bans.admits(&place.id, place.addr.ip()));
        let mut banned: Vec<PeerId> = banned.map(|place| place.id).collect();
        drop(table);
        // Those that are about to connect, and those that are waited for.
        let undecided = self
            .peers
            .contests
            .keys()
            .filter(|id| self.bans.bans_peer(id));
        banned.extend(undecided);
        for peer in banned {
            let (refused, reason) = (RefusedReason::Banned, DisconnectReason::Banned);
            // It is there, or was about to be.
            let _ = self.peers.handle_expel(now, &peer, refused, reason);
        }
        let waiting = self.queue.list(now);
        for lost in waiting {
            let at_ip = match &lost.endpoint {
                Endpoint::Address(addr) => self.bans.bans_ip(addr.ip()),
                _ => false,
            };
            if at_ip || self.bans.bans_peer(&lost.peer) {
                self.give_up(&lost.peer, GaveUp::CalledOff);
            }
        }
    }

    pub(super) fn note_twice(
        &mut self,
        now: Instant,
        peer: PeerId,
        addr: SocketAddr,
        other: Option<SocketAddr>,
    ) {
        let is_over = |twice: &Twice| now.saturating_duration_since(twice.since) >= TWICE_WINDOW;
        self.twice.retain(|_, twice| !is_over(twice));
        if self.twice.len() >= TWICE_MAX && !self.twice.contains_key(&peer) {
            return;
        }
        let twice = self.twice.entry(peer).or_insert(Twice {
            count: 0,
            since: now,
            is_told: false,
        });
        twice.count += 1;
        if twice.count >= TWICE_MIN && !twice.is_told {
            twice.is_told = true;
            self.notices
                .push_back(Notice::SeenTwice { peer, addr, other });
        }
    }
}
