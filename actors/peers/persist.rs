//! What outlives the node: when it is written, and how it is taken up again.

use std::fmt::Debug;
use std::time::Duration;

use mischief_reactor::{Instant, WallTime};

use super::PeerId;
use super::book::{Past, seconds};
use super::message::Direction;
use super::network::Network;
use super::store::{CURRENT_MAX, FileKind, Stored, StoredPeer};
use crate::connection::Endpoint;

/// After an attempt to write that failed.
const RETRY_AFTER: Duration = Duration::from_secs(30);
/// Peers of the last run are dialled within this time of the start.
const RESUME_WITHIN: Duration = Duration::from_secs(5);

/// Files to be written, and the number of the last change that is in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Save {
    /// To be given back with [`Network::handle_saved`].
    pub change: u64,
    /// Names and contents.
    pub files: Vec<(FileKind, Vec<u8>)>,
}

/// Which changes are written.
#[derive(Clone, Debug)]
pub(super) struct Saving {
    is_on: bool,
    changes: u64,
    saved: u64,
    writing: Option<u64>,
    at: Option<Instant>,
    /// Who was connected when the node began to stop.
    current: Option<Vec<(PeerId, Endpoint)>>,
}

impl Saving {
    pub(super) fn new(is_on: bool) -> Saving {
        Saving {
            is_on,
            changes: 0,
            saved: 0,
            writing: None,
            at: None,
            current: None,
        }
    }

    /// Something has changed, which is to be written within `within`. The number of the change.
    pub(super) fn mark(&mut self, now: Instant, within: Duration) -> u64 {
        self.changes += 1;
        if self.is_on {
            let at = now + within;
            self.at = Some(self.at.map_or(at, |earlier| earlier.min(at)));
        }
        self.changes
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.at.filter(|_| self.writing.is_none())
    }
}

impl<C: Copy + Ord + Debug> Network<C> {
    /// What has to be written now, if anything.
    pub fn poll_save(&mut self, now: Instant, wall: WallTime) -> Option<Save> {
        if self.saving.deadline().is_none_or(|at| at > now) {
            return None;
        }
        let change = self.saving.changes;
        self.saving.at = None;
        self.saving.writing = Some(change);
        let stored = self.stored(now, wall);
        let files = [FileKind::Current, FileKind::Ever].map(|kind| (kind, stored.encode(kind)));
        let files = files.into();
        Some(Save { change, files })
    }

    /// The files of [`Network::poll_save`] are written and will be there after a crash, or could not be written.
    pub fn handle_saved(&mut self, now: Instant, change: u64, is_written: bool) {
        self.saving.writing = None;
        match is_written {
            true => self.saving.saved = self.saving.saved.max(change),
            false => {
                let at = now + RETRY_AFTER;
                self.saving.at = Some(self.saving.at.map_or(at, |other| other.max(at)));
            }
        }
    }

    /// Whether a change will be there after a crash. A node that keeps nothing says so at once.
    pub fn is_saved(&self, change: u64) -> bool {
        !self.saving.is_on || self.saving.saved >= change
    }

    /// Whether something is being written.
    pub fn is_saving(&self) -> bool {
        self.saving.writing.is_some()
    }

    /// Notes who is connected, before they are disconnected for the node's own end.
    pub(super) fn freeze_current(&mut self) {
        if self.saving.is_on && self.saving.current.is_none() {
            self.saving.current = Some(self.current());
        }
    }

    /// Whom this node dialled and is, or wants to be, connected to.
    fn current(&self) -> Vec<(PeerId, Endpoint)> {
        let table = self.peers.table.read();
        let is_own = |id: &PeerId, direction| {
            direction == Direction::Outbound || self.peers.protected.contains(id)
        };
        let connected = table
            .places()
            .filter(|place| is_own(&place.id, place.direction));
        let connected = connected.filter_map(|place| {
            let endpoint = self.dialable(&place.id, place.addr, place.direction)?;
            Some((place.id, endpoint))
        });
        let mut current: Vec<(PeerId, Endpoint)> = connected.collect();
        let waiting = self.queue.list(Instant::ZERO);
        current.extend(waiting.into_iter().map(|lost| (lost.peer, lost.endpoint)));
        current.truncate(CURRENT_MAX);
        current
    }

    fn stored(&self, now: Instant, wall: WallTime) -> Stored {
        let second = seconds(now);
        let at_wall = |at: i64| {
            let ago = Duration::from_secs(u64::try_from(second - at).unwrap_or(0));
            before(wall, ago)
        };
        let peers = self.book.iter().map(|(peer, known)| StoredPeer {
            peer: *peer,
            endpoint: known.endpoint.clone(),
            source: known.source,
            heard_at: at_wall(known.heard_at),
            reached_at: known.reached_at.map(at_wall),
            is_met: known.is_met,
            failures: known.failures,
            record: known.record.clone(),
        });
        let bans = self.bans.iter().map(|(target, until)| {
            let until = until.map(|until| after(wall, until.saturating_duration_since(now)));
            (target, until)
        });
        Stored {
            peers: peers.collect(),
            bans: bans.collect(),
            protected: self.peers.protected.iter().copied().collect(),
            sequence: self.outreach.sequence,
            current: self
                .saving
                .current
                .clone()
                .unwrap_or_else(|| self.current()),
        }
    }

    /// Takes up what an earlier run knew. Peers that it was connected to are dialled soon.
    pub fn restore(&mut self, now: Instant, wall: WallTime, stored: Stored) {
        let second = seconds(now);
        // What a clock that was ahead has written counts as new.
        let age = |at: WallTime| {
            let nanos = wall.as_unix_nanos().saturating_sub(at.as_unix_nanos());
            (nanos / 1_000_000_000) as i64
        };
        if self.settings.keeps_book {
            for peer in stored.peers {
                let past = Past {
                    endpoint: peer.endpoint,
                    source: peer.source,
                    heard_at: second - age(peer.heard_at),
                    reached_at: peer.reached_at.map(|at| second - age(at)),
                    is_met: peer.is_met,
                    failures: peer.failures,
                    record: peer.record,
                };
                self.book.restore(peer.peer, past);
            }
        }
        for (target, until) in stored.bans {
            let left =
                until.map(|until| until.as_unix_nanos().saturating_sub(wall.as_unix_nanos()));
            if left != Some(0) {
                // As many as there can be were written.
                let _ = self.bans.ban(
                    target,
                    left.map(|left| now.saturating_add(Duration::from_nanos(left))),
                );
            }
        }
        for peer in stored.protected {
            self.peers.handle_protect(peer, true);
        }
        self.outreach.sequence = self.outreach.sequence.max(stored.sequence);
        if self.settings.reconnect.is_on {
            for (peer, endpoint) in stored.current {
                let is_other = peer != self.peers.own_id() && !self.bans.bans_peer(&peer);
                if is_other {
                    self.queue
                        .resume(now, peer, endpoint, RESUME_WITHIN, &mut self.chance);
                }
            }
        }
    }
}

fn before(wall: WallTime, ago: Duration) -> WallTime {
    let nanos = u64::try_from(ago.as_nanos()).unwrap_or(u64::MAX);
    WallTime::from_unix_nanos(wall.as_unix_nanos().saturating_sub(nanos))
}

fn after(wall: WallTime, left: Duration) -> WallTime {
    let nanos = u64::try_from(left.as_nanos()).unwrap_or(u64::MAX);
    WallTime::from_unix_nanos(wall.as_unix_nanos().saturating_add(nanos))
}
