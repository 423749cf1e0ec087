//! What others have stored with us: peers of info hashes (BEP 5, 33) and items (BEP 44). Bounded in every direction, and gone
//! after a while.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use mischief_reactor::{Instant, Random};

use super::address::{Family, is_local, write_compact};
use super::bloom::Bloom;
use super::item::{self, Item, Signature};
use super::message::{Signed, code};
use super::node_id::{Distance, NodeId};

/// How long a peer is kept after its last announcement: it comes again every 15 minutes.
pub const PEER_LIFE: Duration = Duration::from_secs(45 * 60);

/// How long an item is kept after it was last put (BEP 44, "Expiration").
pub const ITEM_LIFE: Duration = Duration::from_secs(2 * 60 * 60);

/// Ports of one IP address that one info hash keeps. BEP 33 counts addresses, and its filters do; but two programs behind
/// one NAT are two peers.
pub const PORTS_PER_ADDRESS_MAX: usize = 8;

/// No tokens are given for an info hash beyond this (BEP 33). It is above `peers_per_hash_max` unless somebody raises that.
pub const SWARM_MAX: usize = 6000;

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StorageLimits {
    /// Info hashes.
    pub hashes_max: usize,
    /// Peers of one info hash.
    pub peers_per_hash_max: usize,
    /// Peers of all.
    pub peers_max: usize,
    /// Immutable items, and as many mutable ones.
    pub items_max: usize,
    /// Bytes of the values of all items.
    pub item_bytes_max: usize,
}

impl Default for StorageLimits {
    fn default() -> StorageLimits {
        StorageLimits {
            hashes_max: 2000,
            peers_per_hash_max: 500,
            peers_max: 4096,
            items_max: 700,
            item_bytes_max: 160 << 10,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Peer {
    addr: SocketAddr,
    is_seed: bool,
    until: Instant,
}

#[derive(Clone, Debug)]
struct Stored {
    value: Box<[u8]>,
    signature: Option<Box<Signature>>,
    until: Instant,
}

/// What is stored.
#[derive(Debug)]
pub struct Storage {
    limits: StorageLimits,
    swarms: BTreeMap<NodeId, Vec<Peer>>,
    peers: usize,
    immutable: BTreeMap<NodeId, Stored>,
    mutable: BTreeMap<NodeId, Stored>,
    item_bytes: usize,
}

/// What is refused, and what to say.
pub type Refusal = (i64, &'static str);

impl Storage {
    /// Nothing yet.
    pub fn new(limits: StorageLimits) -> Storage {
        Storage {
            limits,
            swarms: BTreeMap::new(),
            peers: 0,
            immutable: BTreeMap::new(),
            mutable: BTreeMap::new(),
            item_bytes: 0,
        }
    }

    /// Info hashes, peers and items.
    pub fn counts(&self) -> (usize, usize, usize) {
        (
            self.swarms.len(),
            self.peers,
            self.immutable.len() + self.mutable.len(),
        )
    }

    /// Keeps a peer. When there is no room, what is farthest from our own id gives way to what is nearer.
    pub fn announce(
        &mut self,
        now: Instant,
        own: &NodeId,
        info_hash: NodeId,
        addr: SocketAddr,
        is_seed: bool,
    ) -> Result<(), Refusal> {
        const FULL: Refusal = (code::SERVER, "storage is full");
        let fresh = Peer {
            addr,
            is_seed,
            until: now + PEER_LIFE,
        };
        let is_new = match self.swarms.get_mut(&info_hash) {
            Some(swarm) => match swarm.iter_mut().find(|peer| peer.addr == addr) {
                Some(known) => {
                    *known = fresh;
                    return Ok(());
                }
                None => false,
            },
            None => true,
        };
        if is_new && self.swarms.len() >= self.limits.hashes_max
            || self.peers >= self.limits.peers_max
        {
            self.expire(now);
        }
        while is_new && self.swarms.len() >= self.limits.hashes_max
            || self.peers >= self.limits.peers_max
        {
            let farthest = farthest(&self.swarms, own).ok_or(FULL)?;
            if farthest.0 <= info_hash.distance(own) {
                return Err(FULL);
            }
            self.peers -= self
                .swarms
                .remove(&farthest.1)
                .map_or(0, |swarm| swarm.len());
        }
        let swarm = self.swarms.entry(info_hash).or_default();
        let same = |peer: &&Peer| peer.addr.ip() == addr.ip() && !is_local(addr.ip());
        if swarm.iter().filter(same).count() >= PORTS_PER_ADDRESS_MAX
            || swarm.len() >= self.limits.peers_per_hash_max
        {
            let crowded = swarm.iter().filter(same).count() >= PORTS_PER_ADDRESS_MAX;
            let oldest = swarm
                .iter_mut()
                .filter(|peer| !crowded || peer.addr.ip() == addr.ip())
                .min_by_key(|peer| peer.until);
            *oldest.ok_or(FULL)? = fresh;
            return Ok(());
        }
        swarm.push(fresh);
        self.peers += 1;
        Ok(())
    }

    /// Whether an info hash takes more peers, so that a token may be given (BEP 33).
    pub fn has_room(&self, info_hash: &NodeId) -> bool {
        self.swarms
            .get(info_hash)
            .is_none_or(|swarm| swarm.len() < SWARM_MAX)
    }

    /// Up to `count` peers of one family, any of those there are, compact.
    pub fn peers(
        &self,
        now: Instant,
        info_hash: &NodeId,
        family: Family,
        noseed: bool,
        count: usize,
        random: &mut dyn Random,
    ) -> Vec<Vec<u8>> {
        let Some(swarm) = self.swarms.get(info_hash) else {
            return Vec::new();
        };
        let mut peers: Vec<&Peer> = swarm
            .iter()
            .filter(|peer| peer.until > now && Family::of(peer.addr) == family)
            .collect();
        for at in 0..count.min(peers.len()) {
            let other = at + random.below((peers.len() - at) as u64) as usize;
            peers.swap(at, other);
        }
        if noseed {
            // Best effort: those who are not seeds come first.
            peers.sort_by_key(|peer| peer.is_seed);
        }
        peers.truncate(count);
        let compact = |peer: &&Peer| {
            let mut bytes = Vec::with_capacity(family.compact_bytes());
            write_compact(peer.addr, &mut bytes);
            bytes
        };
        peers.iter().map(compact).collect()
    }

    /// The filters of seeds and of other peers (BEP 33); `None` if there is no such info hash.
    pub fn scrape(&self, info_hash: &NodeId) -> Option<(Bloom, Bloom)> {
        let swarm = self.swarms.get(info_hash)?;
        let (mut seeds, mut peers) = (Bloom::default(), Bloom::default());
        for peer in swarm {
            let filter = if peer.is_seed { &mut seeds } else { &mut peers };
            filter.insert(peer.addr.ip());
        }
        Some((seeds, peers))
    }

    /// Up to `count` of the info hashes, any of those there are.
    pub fn sample(&self, count: usize, random: &mut dyn Random) -> Vec<NodeId> {
        let mut hashes: Vec<NodeId> = self.swarms.keys().copied().collect();
        for at in 0..count.min(hashes.len()) {
            let other = at + random.below((hashes.len() - at) as u64) as usize;
            hashes.swap(at, other);
        }
        hashes.truncate(count);
        hashes
    }

    /// An item.
    pub fn item(&self, now: Instant, target: &NodeId) -> Option<(&[u8], Option<&Signature>)> {
        let stored = self
            .mutable
            .get(target)
            .or_else(|| self.immutable.get(target))?;
        (stored.until > now).then_some((&stored.value, stored.signature.as_deref()))
    }

    /// The item with all that proves it.
    pub fn whole_item(&self, now: Instant, target: &NodeId) -> Option<Item> {
        let (value, signature) = self.item(now, target)?;
        Some(Item {
            value: value.to_vec(),
            signature: signature.copied(),
        })
    }

    /// Keeps an item if the rules of BEP 44 allow it. The token has been checked.
    pub fn put(
        &mut self,
        now: Instant,
        own: &NodeId,
        value: &[u8],
        signed: Option<&Signed<'_>>,
    ) -> Result<(), Refusal> {
        let salt = signed.map_or(&[][..], |signed| signed.salt);
        match item::check(value, salt) {
            Ok(()) => {}
            Err(item::ItemError::ValueTooBig) => {
                return Err((code::VALUE_TOO_BIG, "message (v field) too big"));
            }
            Err(item::ItemError::SaltTooBig) => {
                return Err((code::SALT_TOO_BIG, "salt (salt field) too big"));
            }
            Err(_) => return Err((code::PROTOCOL, "invalid 'v'")),
        }
        let Some(signed) = signed else {
            return self.keep(now, own, item::immutable_target(value), value, None);
        };
        if signed.seq < 0 {
            return Err((code::PROTOCOL, "invalid 'seq'"));
        }
        if !item::is_signed(signed.key, signed.salt, signed.seq, value, signed.signature) {
            return Err((code::SIGNATURE, "invalid signature"));
        }
        let target = item::mutable_target(signed.key, signed.salt);
        let current = self
            .mutable
            .get(&target)
            .filter(|stored| stored.until > now);
        if let Some(stored) = current
            && let Some(known) = &stored.signature
        {
            if signed.cas.is_some_and(|cas| cas != known.seq) {
                return Err((
                    code::CAS_MISMATCH,
                    "the CAS number mismatched, re-read and try again",
                ));
            }
            if signed.seq < known.seq || signed.seq == known.seq && *stored.value != *value {
                return Err((code::SEQUENCE, "sequence number less than current"));
            }
        }
        let signature = Signature {
            key: *signed.key,
            seq: signed.seq,
            signature: *signed.signature,
        };
        self.keep(now, own, target, value, Some(signature))
    }

    fn keep(
        &mut self,
        now: Instant,
        own: &NodeId,
        target: NodeId,
        value: &[u8],
        signature: Option<Signature>,
    ) -> Result<(), Refusal> {
        const FULL: Refusal = (code::SERVER, "storage is full");
        let (items_max, bytes_max) = (self.limits.items_max, self.limits.item_bytes_max);
        let is_mutable = signature.is_some();
        if !self.fits(&target, value.len(), is_mutable) {
            self.expire(now);
        }
        while !self.fits(&target, value.len(), is_mutable) {
            let (of_kind, other) = match is_mutable {
                true => (&self.mutable, &self.immutable),
                false => (&self.immutable, &self.mutable),
            };
            let is_crowded = of_kind.len() >= items_max && !of_kind.contains_key(&target);
            // Bytes may be found in either kind, a place only in its own.
            let candidates = [
                farthest(of_kind, own).filter(|(_, at)| *at != target),
                farthest(other, own).filter(|_| !is_crowded),
            ];
            let worst = candidates.into_iter().flatten().max().ok_or(FULL)?;
            if worst.0 <= target.distance(own) || value.len() > bytes_max {
                return Err(FULL);
            }
            let removed = self
                .immutable
                .remove(&worst.1)
                .or_else(|| self.mutable.remove(&worst.1));
            self.item_bytes -= removed.map_or(0, |stored| stored.value.len());
        }
        let items = if is_mutable {
            &mut self.mutable
        } else {
            &mut self.immutable
        };
        let stored = Stored {
            value: value.into(),
            signature: signature.map(Box::new),
            until: now + ITEM_LIFE,
        };
        self.item_bytes += value.len();
        if let Some(old) = items.insert(target, stored) {
            self.item_bytes -= old.value.len();
        }
        Ok(())
    }

    fn fits(&self, target: &NodeId, bytes: usize, is_mutable: bool) -> bool {
        let items = if is_mutable {
            &self.mutable
        } else {
            &self.immutable
        };
        let old = items.get(target);
        let freed = old.map_or(0, |stored| stored.value.len());
        (old.is_some() || items.len() < self.limits.items_max)
            && self.item_bytes - freed + bytes <= self.limits.item_bytes_max
    }

    /// Drops what is too old.
    pub fn expire(&mut self, now: Instant) {
        self.swarms.retain(|_, swarm| {
            swarm.retain(|peer| peer.until > now);
            !swarm.is_empty()
        });
        self.peers = self.swarms.values().map(Vec::len).sum();
        self.immutable.retain(|_, stored| stored.until > now);
        self.mutable.retain(|_, stored| stored.until > now);
        let items = self.immutable.values().chain(self.mutable.values());
        self.item_bytes = items.map(|stored| stored.value.len()).sum();
    }

    /// Bytes of memory beside the value itself, about.
    pub fn heap_bytes(&self) -> usize {
        let swarms: usize = self.swarms.values().map(Vec::capacity).sum();
        let items = self.immutable.len() * size_of::<(NodeId, Stored)>()
            + self.mutable.len() * (size_of::<(NodeId, Stored)>() + size_of::<Signature>());
        swarms * size_of::<Peer>()
            + self.swarms.len() * size_of::<(NodeId, Vec<Peer>)>()
            + items
            + self.item_bytes
    }
}

fn farthest<T>(map: &BTreeMap<NodeId, T>, own: &NodeId) -> Option<(Distance, NodeId)> {
    map.keys()
        .map(|target| (target.distance(own), *target))
        .max()
}
