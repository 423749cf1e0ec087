//! The address book: peers that were reached ("tried") and peers that others told of ("new"), each with one place in a
//! table of buckets. Which buckets a peer can come to depends on a secret key, on its group of addresses and on who told
//! of it, so that nobody can fill the book however many addresses he tells (Heilman et al., "Eclipse Attacks on Bitcoin's
//! Peer-to-Peer Network", 2015).
//!
//! Times are seconds on the monotonic clock, before the start negative: a wall clock that jumps changes no age.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mischief_reactor::Instant;
use ring::digest::{Context as Digest, SHA256};

use super::PeerId;
use super::chance::Chance;
use super::record::SignedRecord;
use super::subnet::{Group, is_private};
use crate::connection::Endpoint;

/// Buckets of peers that others told of.
const NEW_BUCKETS: u16 = 64;
/// Buckets of peers that were reached.
const TRIED_BUCKETS: u16 = 32;
/// Places in a bucket of new peers.
const NEW_PLACES: u16 = 32;
/// Places in a bucket of tried peers.
const TRIED_PLACES: u16 = 64;
/// Buckets that one group of tellers can fill: with their places 64 peers.
const BUCKETS_PER_SOURCE: u16 = 2;
/// Buckets that tried peers of one group can fill.
const BUCKETS_PER_GROUP: u16 = 4;

/// Peers in the book at most.
pub const BOOK_MAX: usize = (NEW_BUCKETS * NEW_PLACES + TRIED_BUCKETS * TRIED_PLACES) as usize;
/// Peers with one and the same public IP address that were only told of. More would let one machine appear as many.
const TOLD_PER_IP_MAX: usize = 2;

const DAY: i64 = 24 * 60 * 60;
/// What has not been heard of for so long makes room for others, and goes when it cannot be reached.
const STALE_AFTER: i64 = 30 * DAY;
/// A peer that was reached within this time keeps its place.
const GOOD_FOR: i64 = 7 * DAY;
/// Failures after which a peer goes that was not reached within [`GOOD_FOR`].
const FAILURES_MAX: u8 = 5;
/// After a failure a peer is not picked for so long, doubled for each further one.
const REST_AFTER_FAILURE: i64 = 60;

/// What is known of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) endpoint: Endpoint,
    /// Who told of it.
    pub(super) source: Group,
    /// When it was last told of, or met.
    pub(super) heard_at: i64,
    /// When a connection to `endpoint` last came about.
    pub(super) reached_at: Option<i64>,
    /// It has proved who it is on a connection from either side.
    pub(super) is_met: bool,
    /// Attempts since it was last reached.
    pub(super) failures: u8,
    /// When it was last tried in vain, in this run.
    failed_at: Option<i64>,
    /// What it signed, to be passed on.
    pub(super) record: Option<SignedRecord>,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    New(u16),
    Tried(u16),
}

impl Known {
    /// It was reached, and not given up since.
    pub(super) fn is_tried(&self) -> bool {
        matches!(self.place, Place::Tried(_))
    }

    fn ip(&self) -> Option<IpAddr> {
        match self.endpoint {
            Endpoint::Address(addr) => Some(addr.ip()),
            _ => None,
        }
    }

    /// Whether its place is free for others.
    fn is_poor(&self, now: i64) -> bool {
        let is_good = self.reached_at.is_some_and(|at| now - at < GOOD_FOR);
        let is_stale = now - self.heard_at > STALE_AFTER;
        !is_good && (is_stale || self.failures >= 2)
    }
}

/// What an earlier run knew of a peer. The members mean what they mean in [`Known`].
#[derive(Clone, Debug)]
pub(super) struct Past {
    pub(super) endpoint: Endpoint,
    pub(super) source: Group,
    pub(super) heard_at: i64,
    pub(super) reached_at: Option<i64>,
    pub(super) is_met: bool,
    pub(super) failures: u8,
    pub(super) record: Option<SignedRecord>,
}

/// An entry of the book, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BookEntry {
    /// Who.
    pub peer: PeerId,
    /// Where it is dialled.
    pub endpoint: Endpoint,
    /// It was reached there.
    pub is_tried: bool,
    /// How long ago it was last told of, or met.
    pub heard: Duration,
    /// How long ago it was last reached.
    pub reached: Option<Duration>,
    /// Attempts since then that failed.
    pub failures: u32,
}

/// All known peers.
#[derive(Clone, Debug)]
pub(super) struct Book {
    known: BTreeMap<PeerId, Known>,
    places: BTreeMap<Place, PeerId>,
    key: [u8; 32],
}

impl Book {
    /// An empty book whose buckets only the holder of `key` can foretell.
    pub(super) fn new(key: [u8; 32]) -> Book {
        Book {
            known: BTreeMap::new(),
            places: BTreeMap::new(),
            key,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    pub(super) fn get(&self, peer: &PeerId) -> Option<&Known> {
        self.known.get(peer)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&PeerId, &Known)> {
        self.known.iter()
    }

    /// Somebody of the group `source` says that a peer is at an address. `true` if that is news and was taken.
    ///
    /// What was reached is not changed by what others say, only by the peer's own newer record.
    pub(super) fn hear(
        &mut self,
        now: Instant,
        peer: PeerId,
        addr: SocketAddr,
        source: Group,
        record: Option<SignedRecord>,
    ) -> bool {
        let now = seconds(now);
        if let Some(known) = self.known.get_mut(&peer) {
            let is_newer = match (&record, &known.record) {
                (Some(record), Some(older)) => record.sequence() > older.sequence(),
                (Some(_), None) => true,
                (None, _) => false,
            };
            if !is_newer {
                return false;
            }
            known.record = record;
            known.heard_at = now;
            let moves = known.endpoint != Endpoint::Address(addr);
            if !moves || known.reached_at.is_some() && known.failures == 0 {
                return true;
            }
            // What it said before leads nowhere any more.
            let known = self.take(&peer).expect("it is there");
            let is_met = known.is_met;
            if !self.has_room_for(addr) {
                return false;
            }
            return self.put_new(now, peer, addr, source, known.record, is_met);
        }
        if !self.has_room_for(addr) {
            return false;
        }
        self.put_new(now, peer, addr, source, record, false)
    }

    /// A peer has proved who it is; `addr`, if given, is where it says that it listens.
    pub(super) fn meet(&mut self, now: Instant, peer: PeerId, addr: Option<SocketAddr>) {
        if let Some(known) = self.known.get_mut(&peer) {
            known.is_met = true;
            known.heard_at = seconds(now);
        } else if let Some(addr) = addr {
            self.put_new(seconds(now), peer, addr, Group::of(addr.ip()), None, true);
        }
    }

    /// A peer was reached there.
    pub(super) fn reach(&mut self, now: Instant, peer: PeerId, endpoint: Endpoint) {
        let now = seconds(now);
        let group = group_of(&endpoint);
        let earlier = self.take(&peer);
        let record = earlier.as_ref().and_then(|known| known.record.clone());
        let source = earlier.as_ref().map_or(group, |known| known.source);
        let mut known = Known {
            endpoint,
            source,
            heard_at: now,
            reached_at: Some(now),
            is_met: true,
            failures: 0,
            failed_at: None,
            record,
            place: self.tried_place(&peer, group),
        };
        if let Some(other) = self.places.get(&known.place).copied() {
            let is_good = |other: &Known| other.reached_at.is_some_and(|at| now - at < GOOD_FOR);
            if self.known.get(&other).is_some_and(is_good) {
                // It keeps its place, and this one waits for another day among the new ones.
                known.place = self.new_place(&peer, group, source);
                if let Some(other) = self.places.get(&known.place).copied() {
                    self.take(&other);
                }
            } else {
                self.take(&other);
            }
        }
        self.put(peer, known);
    }

    /// A peer was not reached. It goes after some failures.
    pub(super) fn fail(&mut self, now: Instant, peer: &PeerId) {
        let now = seconds(now);
        let Some(known) = self.known.get_mut(peer) else {
            return;
        };
        known.failures = known.failures.saturating_add(1);
        known.failed_at = Some(now);
        let is_good = known.reached_at.is_some_and(|at| now - at < GOOD_FOR);
        let is_stale = now - known.heard_at > STALE_AFTER;
        if !is_good && (is_stale || known.failures >= FAILURES_MAX) {
            self.take(peer);
        }
    }

    /// Forgets a peer. `false` if it is not in the book.
    pub(super) fn forget(&mut self, peer: &PeerId) -> bool {
        self.take(peer).is_some()
    }

    /// Somebody to dial: as often one that was reached before as a new one, if there are both. Of the new ones, a group of
    /// tellers is drawn first, so that who tells most is not believed most.
    pub(super) fn pick(
        &self,
        now: Instant,
        chance: &mut Chance,
        is_wanted: impl Fn(&PeerId, &Known) -> bool,
    ) -> Option<(PeerId, Endpoint)> {
        let prefers_tried = chance.below(2) == 0;
        match prefers_tried {
            true => self
                .pick_tried(now, chance, &is_wanted)
                .or_else(|| self.pick_new(now, chance, &is_wanted)),
            false => self
                .pick_new(now, chance, &is_wanted)
                .or_else(|| self.pick_tried(now, chance, &is_wanted)),
        }
    }

    fn pick_tried(
        &self,
        now: Instant,
        chance: &mut Chance,
        is_wanted: &impl Fn(&PeerId, &Known) -> bool,
    ) -> Option<(PeerId, Endpoint)> {
        let now = seconds(now);
        let fits = |(peer, known): &(&PeerId, &Known)| {
            known.is_tried() && rested(known, now) && is_wanted(peer, known)
        };
        let fitting: Vec<_> = self.known.iter().filter(fits).collect();
        let (peer, known) = *fitting.get(chance.below(fitting.len()))?;
        Some((*peer, known.endpoint.clone()))
    }

    /// Somebody new, to see whether it is there.
    pub(super) fn pick_new(
        &self,
        now: Instant,
        chance: &mut Chance,
        is_wanted: &impl Fn(&PeerId, &Known) -> bool,
    ) -> Option<(PeerId, Endpoint)> {
        let now = seconds(now);
        let mut by_source: BTreeMap<Group, Vec<(&PeerId, &Known)>> = BTreeMap::new();
        for (peer, known) in &self.known {
            if !known.is_tried() && rested(known, now) && is_wanted(peer, known) {
                by_source
                    .entry(known.source)
                    .or_default()
                    .push((peer, known));
            }
        }
        let fitting = by_source.values().nth(chance.below(by_source.len()))?;
        let (peer, known) = fitting[chance.below(fitting.len())];
        Some((*peer, known.endpoint.clone()))
    }

    /// Records to pass on: of peers that this node has met and not lost sight of, each as likely, at most `max`.
    pub(super) fn records(
        &self,
        now: Instant,
        max: usize,
        chance: &mut Chance,
        is_wanted: impl Fn(&PeerId, &SignedRecord) -> bool,
    ) -> Vec<SignedRecord> {
        let now = seconds(now);
        let fresh = self
            .known
            .iter()
            .filter(|(_, known)| known.is_met && known.failures == 0 && now - known.heard_at < DAY);
        let records = fresh.filter_map(|(peer, known)| Some((peer, known.record.as_ref()?)));
        let mut records: Vec<&SignedRecord> = records
            .filter(|(peer, record)| is_wanted(peer, record))
            .map(|(_, record)| record)
            .collect();
        for at in 0..max.min(records.len()) {
            let other = at + chance.below(records.len() - at);
            records.swap(at, other);
        }
        records.truncate(max);
        records.into_iter().cloned().collect()
    }

    /// Everything in the book.
    pub(super) fn list(&self, now: Instant) -> Vec<BookEntry> {
        let now = seconds(now);
        let ago = |at: i64| Duration::from_secs(u64::try_from(now - at).unwrap_or(0));
        let entries = self.known.iter().map(|(peer, known)| BookEntry {
            peer: *peer,
            endpoint: known.endpoint.clone(),
            is_tried: known.is_tried(),
            heard: ago(known.heard_at),
            reached: known.reached_at.map(ago),
            failures: known.failures.into(),
        });
        entries.collect()
    }

    /// Puts back what an earlier run knew. Where two want one place, the first keeps it.
    pub(super) fn restore(&mut self, peer: PeerId, past: Past) {
        let group = group_of(&past.endpoint);
        let tried = self.tried_place(&peer, group);
        let place = match past.reached_at {
            Some(_) if !self.places.contains_key(&tried) => tried,
            _ => self.new_place(&peer, group, past.source),
        };
        if self.places.contains_key(&place) || self.known.contains_key(&peer) {
            return;
        }
        let Past {
            endpoint,
            source,
            heard_at,
            reached_at,
            is_met,
            failures,
            record,
        } = past;
        let known = Known {
            endpoint,
            source,
            heard_at,
            reached_at,
            is_met,
            failures,
            failed_at: None,
            record,
            place,
        };
        self.put(peer, known);
    }

    /// One address is one peer's, and one machine is not many.
    fn has_room_for(&self, addr: SocketAddr) -> bool {
        let at_ip = |known: &&Known| known.ip() == Some(addr.ip());
        let mut same_ip = self.known.values().filter(at_ip);
        if is_private(addr.ip()) {
            return same_ip.all(|known| known.endpoint != Endpoint::Address(addr));
        }
        let mut count = 0;
        for known in same_ip {
            count += 1;
            if known.endpoint == Endpoint::Address(addr) || count >= TOLD_PER_IP_MAX {
                return false;
            }
        }
        true
    }

    fn put_new(
        &mut self,
        now: i64,
        peer: PeerId,
        addr: SocketAddr,
        source: Group,
        record: Option<SignedRecord>,
        is_met: bool,
    ) -> bool {
        let place = self.new_place(&peer, Group::of(addr.ip()), source);
        if let Some(other) = self.places.get(&place).copied() {
            if !self
                .known
                .get(&other)
                .is_some_and(|other| other.is_poor(now))
            {
                return false;
            }
            self.take(&other);
        }
        let known = Known {
            endpoint: Endpoint::Address(addr),
            source,
            heard_at: now,
            reached_at: None,
            is_met,
            failures: 0,
            failed_at: None,
            record,
            place,
        };
        self.put(peer, known);
        true
    }

    fn put(&mut self, peer: PeerId, known: Known) {
        self.places.insert(known.place, peer);
        self.known.insert(peer, known);
    }

    fn take(&mut self, peer: &PeerId) -> Option<Known> {
        let known = self.known.remove(peer)?;
        self.places.remove(&known.place);
        Some(known)
    }

    fn new_place(&self, peer: &PeerId, group: Group, source: Group) -> Place {
        let (group, source) = (group.to_be_bytes(), source.to_be_bytes());
        let nth = self.hash(&[b"n", &source, &group]) % BUCKETS_PER_SOURCE;
        let bucket = self.hash(&[b"N", &source, &nth.to_be_bytes()]) % NEW_BUCKETS;
        self.place_in(Place::New, bucket, NEW_PLACES, peer)
    }

    fn tried_place(&self, peer: &PeerId, group: Group) -> Place {
        let group = group.to_be_bytes();
        let nth = self.hash(&[b"t", peer.as_bytes()]) % BUCKETS_PER_GROUP;
        let bucket = self.hash(&[b"T", &group, &nth.to_be_bytes()]) % TRIED_BUCKETS;
        self.place_in(Place::Tried, bucket, TRIED_PLACES, peer)
    }

    /// A peer's own place in a bucket, or the next one that is free: in a small network no place is to be contested.
    fn place_in(&self, table: fn(u16) -> Place, bucket: u16, places: u16, peer: &PeerId) -> Place {
        let own = self.hash(&[b"p", &bucket.to_be_bytes(), peer.as_bytes()]) % places;
        let nth = |at: u16| table(bucket * places + at % places);
        let mut from_own = (own..own + places).map(nth);
        let free = from_own.find(|place| !self.places.contains_key(place));
        free.unwrap_or_else(|| nth(own))
    }

    fn hash(&self, parts: &[&[u8]]) -> u16 {
        let mut digest = Digest::new(&SHA256);
        digest.update(&self.key);
        for part in parts {
            digest.update(part);
        }
        let digest = digest.finish();
        let bytes = digest.as_ref();
        u16::from_be_bytes([bytes[0], bytes[1]])
    }
}

/// The clock of the book.
pub(super) fn seconds(now: Instant) -> i64 {
    (now.as_nanos() / 1_000_000_000) as i64
}

fn rested(known: &Known, now: i64) -> bool {
    let rest = REST_AFTER_FAILURE << known.failures.min(10);
    known.failed_at.is_none_or(|at| now - at >= rest)
}

/// A name may lead anywhere: all names are one group.
fn group_of(endpoint: &Endpoint) -> Group {
    match endpoint {
        Endpoint::Address(addr) => Group::of(addr.ip()),
        _ => Group::from_be_bytes([0; 16]),
    }
}

#[cfg(test)]
#[path = "tests/book.rs"]
mod tests;
