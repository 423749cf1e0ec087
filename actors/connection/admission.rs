//! Which inbound sockets may wait and which may run a handshake: one small table with a lock, shared by all cores.
//!
//! It is the one exception to "nothing shared": each core accepts sockets by itself, but the limits are the node's. The lock
//! is taken a few times per inbound socket, never per frame, and nothing is done under it but arithmetic.
//!
//! **Two steps.** Accepting a socket costs a file descriptor and a few hundred bytes; running its handshake costs a millisecond
//! of a core and some KiB. So [`Admission::admit`] lets a socket in to be listened to, and [`Ticket::start`] asks, when its
//! first message is there in full, for one of the places where handshakes run. Who says nothing takes no such place.
//!
//! - At [`AdmissionLimits::sockets_max`] a newcomer evicts a socket of the fullest prefix, in it of the fullest address: the
//!   one that has sent nothing longest, else the oldest that has sent only a part. A newcomer never evicts from a prefix or an
//!   address that is emptier than its own, so a flood ends up evicting itself.
//! - The caps of handshakes for the node, an address and a prefix are exact. Who finds no place waits and asks again after
//!   [`RETRY_AFTER`]: fifty honest nodes behind one address get in one after the other instead of being refused. Places go to
//!   the prefix and the address with the fewest first. A handshake that has stalled for longer than
//!   [`AdmissionLimits::stalled_after`] loses its place to who waits for it.
//! - The rate limit is a token bucket per prefix, paid when a handshake starts. `accept` is never paused, and sockets without
//!   a handshake cannot use up the tokens of an honest neighbour.
//!
//! An address is an IPv4 address or an IPv6 /64 (one host may have as many addresses of a /64 as it likes), a prefix is an
//! IPv4 /24 or an IPv6 /48.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use mischief_reactor::Instant;
use parking_lot::Mutex;

/// How long a socket without a place for its handshake waits before it asks again.
pub const RETRY_AFTER: Duration = Duration::from_millis(20);

/// An honest dialler speaks as soon as it is connected, but its bytes may lie unread for a moment. Who has said nothing for
/// longer is evicted before those that have sent a part; until then age alone decides, so that a flood that sends single bytes
/// is no better off than the honest peer that was accepted last.
const SPEAKS_WITHIN: Duration = Duration::from_millis(250);

/// Who has not asked again for so long is not waited for by others. Five times the interval, so that a busy core is no
/// disadvantage.
const WAITS_FOR_OTHERS: Duration = Duration::from_millis(100);

/// The limits on inbound connections that are not authenticated yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionLimits {
    /// Inbound sockets whose handshake is not done, whatever they do.
    pub sockets_max: u32,
    /// Handshakes that run at a time.
    pub handshakes_max: u32,
    /// Handshakes that run at a time from one address.
    pub handshakes_per_address_max: u32,
    /// Handshakes that run at a time from one prefix.
    pub handshakes_per_prefix_max: u32,
    /// Handshakes started per second from one prefix.
    pub rate_per_second: u32,
    /// Handshakes that a prefix may start at once after a quiet time.
    pub rate_burst: u32,
    /// Prefixes whose rate is remembered; the least recently seen is forgotten first.
    pub prefixes_max: u32,
    /// A handshake whose peer has sent nothing for so long may be evicted in favour of one that waits.
    pub stalled_after: Duration,
}

impl Default for AdmissionLimits {
    fn default() -> Self {
        AdmissionLimits {
            sockets_max: 256,
            handshakes_max: 64,
            handshakes_per_address_max: 4,
            handshakes_per_prefix_max: 8,
            rate_per_second: 50,
            rate_burst: 200,
            prefixes_max: 4096,
            stalled_after: Duration::from_secs(1),
        }
    }
}

/// The table. Clones share it. `O` is whatever the owner needs to reach a socket on any core, the address of its actor.
pub struct Admission<O: Copy> {
    table: Arc<Mutex<Table<O>>>,
}

impl<O: Copy> Clone for Admission<O> {
    fn clone(&self) -> Self {
        Admission {
            table: self.table.clone(),
        }
    }
}

/// A socket that was let in.
#[derive(Debug)]
pub struct Admitted<O: Copy> {
    /// Its place. Dropping it gives the place back.
    pub ticket: Ticket<O>,
    /// The owner of the socket that has been evicted for it and has to be closed. `None` also if that has no owner yet: it
    /// learns of it from its ticket.
    pub evicted: Option<O>,
}

/// A socket that was not let in: all places are taken by sockets that are worth more. It is to be closed at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many inbound connections are waiting for their handshake")]
pub struct Denied;

/// The answer to [`Ticket::start`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start<O> {
    /// The handshake may run now.
    Go {
        /// The owner of the socket that has been evicted for it and has to be closed.
        evicted: Option<O>,
    },
    /// Not yet: ask again after [`RETRY_AFTER`], until the socket's own deadline.
    Wait,
    /// This socket has been evicted and is to be closed.
    Evicted,
}

/// What is going on at the door.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AdmissionCounts {
    /// Sockets whose handshake is not done.
    pub sockets: u32,
    /// Of these, sockets that wait for a place.
    pub waiting: u32,
    /// Of these, sockets whose handshake runs.
    pub running: u32,
    /// Sockets let in since the start.
    pub admitted: u64,
    /// Sockets turned away since the start.
    pub denied: u64,
    /// Sockets evicted since the start.
    pub evicted: u64,
}

/// The most handshakes that run for one place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AdmissionCrowd {
    /// Of one address: an IPv4 address or an IPv6 /64.
    pub running_of_address: u32,
    /// Of one prefix: an IPv4 /24 or an IPv6 /48.
    pub running_of_prefix: u32,
}

impl<O: Copy> Admission<O> {
    /// An empty table.
    pub fn new(limits: AdmissionLimits) -> Admission<O> {
        Admission {
            table: Arc::new(Mutex::new(Table::new(limits))),
        }
    }

    /// Lets in a socket that was just accepted from `from`, if need be in place of another. Whoever takes care of the socket
    /// says so with [`Ticket::set_owner`].
    pub fn admit(&self, now: Instant, from: IpAddr) -> Result<Admitted<O>, Denied> {
        let (id, evicted) = self.table.lock().admit(now, from)?;
        Ok(Admitted {
            ticket: Ticket {
                table: self.table.clone(),
                id,
            },
            evicted,
        })
    }

    /// What is going on.
    pub fn counts(&self) -> AdmissionCounts {
        self.table.lock().counts()
    }

    /// Where most handshakes run. Looks at every address that has a socket here.
    pub fn crowd(&self) -> AdmissionCrowd {
        let table = self.table.lock();
        let running = |count: &Count| count.running;
        AdmissionCrowd {
            running_of_address: table.addresses.values().map(running).max().unwrap_or(0),
            running_of_prefix: table.prefixes.values().map(running).max().unwrap_or(0),
        }
    }
}

impl<O: Copy> std::fmt::Debug for Admission<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.counts().fmt(f)
    }
}

/// The place of one inbound socket, from `accept` to the end of its handshake. Usable from any core; dropping it gives the
/// place back, once, also when the socket had been evicted.
pub struct Ticket<O: Copy> {
    table: Arc<Mutex<Table<O>>>,
    id: TicketId,
}

impl<O: Copy> Ticket<O> {
    /// Says how the socket is reached from now on. `false`: it has been evicted and is to be closed.
    pub fn set_owner(&self, owner: O) -> bool {
        self.table
            .lock()
            .entry(self.id)
            .map(|entry| entry.owner = Some(owner))
            .is_some()
    }

    /// The peer has sent something. `false`: the socket has been evicted and is to be closed.
    pub fn heard(&self, now: Instant) -> bool {
        self.table.lock().heard(now, self.id)
    }

    /// The handshake is done: gives the place back. `false`: the socket has been evicted before, and its owner told, so the
    /// connection must not come to be used.
    pub fn finish(self) -> bool {
        self.table.lock().take(self.id).is_some()
    }

    /// Asks for a place to run the handshake, whose first message is there in full.
    pub fn start(&self, now: Instant) -> Start<O> {
        self.table.lock().start(now, self.id)
    }
}

impl<O: Copy> Drop for Ticket<O> {
    fn drop(&mut self) {
        self.table.lock().take(self.id);
    }
}

impl<O: Copy> std::fmt::Debug for Ticket<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ticket({}.{})", self.id.index, self.id.generation)
    }
}

/// A place in the table. The generation keeps the ticket of an evicted socket away from its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TicketId {
    index: u32,
    generation: u32,
}

/// How far a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Silent,
    Partial,
    Waiting,
    Running,
}

#[derive(Debug)]
struct Entry<O> {
    owner: Option<O>,
    address: AddressKey,
    prefix: PrefixKey,
    stage: Stage,
    /// When the peer last sent something, at first when it was accepted.
    heard_at: Instant,
    /// When it last asked for a place.
    asked_at: Instant,
    /// Order of arrival.
    arrival: u64,
}

/// An IPv4 address or an IPv6 /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct AddressKey(u128);

/// An IPv4 /24 or an IPv6 /48.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PrefixKey(u64);

/// IPv4 keys have this bit; IPv6 prefixes use 48 bits and IPv6 /64s the upper half of their 128.
const IS_V4: u64 = 1 << 63;

fn keys(ip: IpAddr) -> (AddressKey, PrefixKey) {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let bits = u32::from(ip);
            (
                AddressKey(u128::from(IS_V4 | u64::from(bits))),
                PrefixKey(IS_V4 | u64::from(bits >> 8)),
            )
        }
        IpAddr::V6(ip) => {
            let bits = u128::from(ip);
            (AddressKey(bits >> 64 << 64), PrefixKey((bits >> 80) as u64))
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    sockets: u32,
    running: u32,
}

struct Table<O> {
    limits: AdmissionLimits,
    slots: Vec<Slot<O>>,
    free: Vec<u32>,
    addresses: BTreeMap<AddressKey, Count>,
    prefixes: BTreeMap<PrefixKey, Count>,
    all: Count,
    waiting: u32,
    arrivals: u64,
    denied: u64,
    evicted: u64,
    buckets: Buckets,
}

struct Slot<O> {
    generation: u32,
    entry: Option<Entry<O>>,
}

impl<O: Copy> Table<O> {
    fn new(limits: AdmissionLimits) -> Table<O> {
        Table {
            limits,
            slots: Vec::new(),
            free: Vec::new(),
            addresses: BTreeMap::new(),
            prefixes: BTreeMap::new(),
            all: Count::default(),
            waiting: 0,
            arrivals: 0,
            denied: 0,
            evicted: 0,
            buckets: Buckets::new(limits),
        }
    }

    fn admit(&mut self, now: Instant, from: IpAddr) -> Result<(TicketId, Option<O>), Denied> {
        let (address, prefix) = keys(from);
        let mut evicted = None;
        if self.all.sockets >= self.limits.sockets_max {
            let Some(victim) = self.socket_to_evict(now, address, prefix) else {
                self.denied += 1;
                return Err(Denied);
            };
            evicted = self.evict(victim);
        }
        self.arrivals += 1;
        let arrival = self.arrivals;
        let entry = Entry {
            owner: None,
            address,
            prefix,
            stage: Stage::Silent,
            heard_at: now,
            asked_at: now,
            arrival,
        };
        Ok((self.insert(entry), evicted))
    }

    fn heard(&mut self, now: Instant, id: TicketId) -> bool {
        let Some(entry) = self.entry(id) else {
            return false;
        };
        entry.heard_at = entry.heard_at.max(now);
        entry.stage = entry.stage.max(Stage::Partial);
        true
    }

    fn start(&mut self, now: Instant, id: TicketId) -> Start<O> {
        let Some(entry) = self.entry(id) else {
            return Start::Evicted;
        };
        if entry.stage == Stage::Running {
            return Start::Go { evicted: None };
        }
        entry.asked_at = now;
        let was_waiting = std::mem::replace(&mut entry.stage, Stage::Waiting) == Stage::Waiting;
        let (address, prefix) = (entry.address, entry.prefix);
        if !was_waiting {
            self.waiting += 1;
        }
        let Some(victim) = self.place_for(now, id) else {
            return Start::Wait;
        };
        let evicted = victim.and_then(|victim| self.evict(victim));
        self.buckets.take(now, prefix);
        self.entry(id)
            .expect("only another socket was evicted")
            .stage = Stage::Running;
        self.waiting -= 1;
        self.all.running += 1;
        self.address(address).running += 1;
        self.prefix(prefix).running += 1;
        Start::Go { evicted }
    }

    /// Whether the waiting socket `id` may start now: `Some` of the stalled handshake that has to go for it, if any.
    fn place_for(&self, now: Instant, id: TicketId) -> Option<Option<TicketId>> {
        let entry = self.slots[id.index as usize].entry.as_ref()?;
        let (address, prefix) = (entry.address, entry.prefix);
        let tokens = self.buckets.whole_tokens(now, prefix);
        if tokens == 0 {
            return None;
        }
        let max_of_address = self.limits.handshakes_per_address_max;
        let max_of_prefix = self.limits.handshakes_per_prefix_max;
        let of_address = self.addresses[&address].running;
        let of_prefix = self.prefixes[&prefix].running;
        let free = |running: u32, max: u32| max.saturating_sub(running);
        // The narrowest scope that is full decides: a place that comes free in it is free in the wider ones as well.
        if of_address >= max_of_address {
            let victim = self.stalled(now, |other| other.address == address)?;
            let ahead = self.waiters_ahead(now, id);
            return (ahead.in_address == 0 && tokens > ahead.in_prefix).then_some(Some(victim));
        }
        if of_prefix >= max_of_prefix {
            let victim = self.stalled(now, |other| other.prefix == prefix)?;
            let ahead = self.waiters_ahead(now, id);
            return (ahead.in_prefix == 0).then_some(Some(victim));
        }
        let victim = match free(self.all.running, self.limits.handshakes_max) {
            0 => Some(self.stalled(now, |_| true)?),
            _ => None,
        };
        let ahead = self.waiters_ahead(now, id);
        // A stalled handshake that goes makes room for one, so then nobody may be ahead.
        let free_anywhere = free(self.all.running, self.limits.handshakes_max).max(1);
        let is_mine = free(of_address, max_of_address) > ahead.in_address
            && free(of_prefix, max_of_prefix).min(tokens) > ahead.in_prefix
            && free_anywhere > ahead.anywhere;
        is_mine.then_some(victim)
    }

    /// How many other sockets that wait have the better claim to a place, and could use it.
    fn waiters_ahead(&self, now: Instant, id: TicketId) -> Ahead {
        let mut ahead = Ahead::default();
        let Some(own) = self.slots[id.index as usize].entry.as_ref() else {
            return ahead;
        };
        if self.waiting <= 1 {
            return ahead;
        }
        let own_claim = self.claim(own);
        for other in self.entries().map(|(_, entry)| entry) {
            let is_there = other.stage == Stage::Waiting
                && other.arrival != own.arrival
                && now.saturating_duration_since(other.asked_at) < WAITS_FOR_OTHERS;
            if !is_there {
                continue;
            }
            let other_claim = self.claim(other);
            if other.address == own.address {
                ahead.in_address += u32::from(other.arrival < own.arrival);
            }
            let is_address_full =
                other_claim.running_of_address >= self.limits.handshakes_per_address_max;
            if other.prefix == own.prefix && !is_address_full {
                ahead.in_prefix += u32::from(other_claim.in_prefix() < own_claim.in_prefix());
            }
            let is_prefix_full =
                other_claim.running_of_prefix >= self.limits.handshakes_per_prefix_max;
            let has_token = self.buckets.whole_tokens(now, other.prefix) > 0;
            if !is_address_full && !is_prefix_full && has_token {
                ahead.anywhere += u32::from(other_claim.anywhere() < own_claim.anywhere());
            }
        }
        ahead
    }

    fn claim(&self, entry: &Entry<O>) -> Claim {
        let address = self.addresses[&entry.address];
        let prefix = self.prefixes[&entry.prefix];
        Claim {
            running_of_prefix: prefix.running,
            running_of_address: address.running,
            sockets_of_prefix: prefix.sockets,
            sockets_of_address: address.sockets,
            arrival: entry.arrival,
        }
    }

    /// The handshake that has stalled longest, of those that `is_in_scope`, from the prefix that runs most.
    fn stalled(&self, now: Instant, is_in_scope: impl Fn(&Entry<O>) -> bool) -> Option<TicketId> {
        let is_stalled = |entry: &Entry<O>| {
            entry.stage == Stage::Running
                && now.saturating_duration_since(entry.heard_at) >= self.limits.stalled_after
        };
        self.entries()
            .filter(|(_, entry)| is_stalled(entry) && is_in_scope(entry))
            .min_by_key(|(_, entry)| {
                let running = self.prefixes[&entry.prefix].running;
                (std::cmp::Reverse(running), entry.heard_at, entry.arrival)
            })
            .map(|(id, _)| id)
    }

    /// Who has to go for a newcomer from `address`, if anybody.
    fn socket_to_evict(
        &self,
        now: Instant,
        address: AddressKey,
        prefix: PrefixKey,
    ) -> Option<TicketId> {
        // The newcomer counts: of two equally full prefixes neither is spared for ever.
        let own_of_address = self
            .addresses
            .get(&address)
            .map_or(0, |count| count.sockets)
            + 1;
        let own_of_prefix = self.prefixes.get(&prefix).map_or(0, |count| count.sockets) + 1;
        self.entries()
            .filter_map(|(id, entry)| {
                // The newcomer's own address and prefix already count the newcomer.
                let of_address =
                    self.addresses[&entry.address].sockets + u32::from(entry.address == address);
                let of_prefix =
                    self.prefixes[&entry.prefix].sockets + u32::from(entry.prefix == prefix);
                let is_neighbour = entry.prefix == prefix;
                let is_fuller =
                    of_prefix > own_of_prefix || is_neighbour && of_address > own_of_address;
                let is_as_full =
                    of_prefix == own_of_prefix && (!is_neighbour || of_address == own_of_address);
                let may_go = match entry.stage {
                    Stage::Silent | Stage::Partial => is_fuller || is_as_full,
                    Stage::Waiting => is_fuller,
                    Stage::Running => false,
                };
                let is_mute = entry.stage == Stage::Silent
                    && now.saturating_duration_since(entry.heard_at) >= SPEAKS_WITHIN;
                let rank = (
                    std::cmp::Reverse(of_prefix),
                    std::cmp::Reverse(of_address),
                    entry.stage == Stage::Waiting,
                    !is_mute,
                    entry.arrival,
                );
                may_go.then_some((rank, id))
            })
            .min_by_key(|(rank, _)| *rank)
            .map(|(_, id)| id)
    }

    fn evict(&mut self, id: TicketId) -> Option<O> {
        self.evicted += 1;
        self.take(id)?.owner
    }

    fn insert(&mut self, entry: Entry<O>) -> TicketId {
        self.all.sockets += 1;
        self.addresses.entry(entry.address).or_default().sockets += 1;
        self.prefixes.entry(entry.prefix).or_default().sockets += 1;
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                generation: 0,
                entry: None,
            });
            self.slots.len() as u32 - 1
        });
        let slot = &mut self.slots[index as usize];
        slot.entry = Some(entry);
        TicketId {
            index,
            generation: slot.generation,
        }
    }

    /// Takes a socket out; `None` if it was out already.
    fn take(&mut self, id: TicketId) -> Option<Entry<O>> {
        let slot = self
            .slots
            .get_mut(id.index as usize)
            .filter(|slot| slot.generation == id.generation)?;
        let entry = slot.entry.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(id.index);
        let is_running = u32::from(entry.stage == Stage::Running);
        self.waiting -= u32::from(entry.stage == Stage::Waiting);
        let of_address = self.address(entry.address);
        of_address.sockets -= 1;
        of_address.running -= is_running;
        if of_address.sockets == 0 {
            self.addresses.remove(&entry.address);
        }
        let of_prefix = self.prefix(entry.prefix);
        of_prefix.sockets -= 1;
        of_prefix.running -= is_running;
        if of_prefix.sockets == 0 {
            self.prefixes.remove(&entry.prefix);
        }
        self.all.sockets -= 1;
        self.all.running -= is_running;
        Some(entry)
    }

    fn entry(&mut self, id: TicketId) -> Option<&mut Entry<O>> {
        let slot = self.slots.get_mut(id.index as usize)?;
        if slot.generation != id.generation {
            return None;
        }
        slot.entry.as_mut()
    }

    fn entries(&self) -> impl Iterator<Item = (TicketId, &Entry<O>)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| {
            let id = TicketId {
                index: index as u32,
                generation: slot.generation,
            };
            slot.entry.as_ref().map(|entry| (id, entry))
        })
    }

    fn address(&mut self, key: AddressKey) -> &mut Count {
        self.addresses
            .get_mut(&key)
            .expect("an address is counted while it has sockets")
    }

    fn prefix(&mut self, key: PrefixKey) -> &mut Count {
        self.prefixes
            .get_mut(&key)
            .expect("a prefix is counted while it has sockets")
    }

    fn counts(&self) -> AdmissionCounts {
        AdmissionCounts {
            sockets: self.all.sockets,
            waiting: self.waiting,
            running: self.all.running,
            admitted: self.arrivals,
            denied: self.denied,
            evicted: self.evicted,
        }
    }
}

/// How many waiters have a better claim, in each scope.
#[derive(Clone, Copy, Debug, Default)]
struct Ahead {
    in_address: u32,
    in_prefix: u32,
    anywhere: u32,
}

/// What decides which of two waiters is first: who has less, then who came first.
#[derive(Clone, Copy, Debug)]
struct Claim {
    running_of_prefix: u32,
    running_of_address: u32,
    sockets_of_prefix: u32,
    sockets_of_address: u32,
    arrival: u64,
}

impl Claim {
    /// Between two of one prefix.
    fn in_prefix(self) -> (u32, u32, u64) {
        (
            self.running_of_address,
            self.sockets_of_address,
            self.arrival,
        )
    }

    /// Between any two.
    fn anywhere(self) -> (u32, u32, u32, u32, u64) {
        let (of_address, sockets_of_address, arrival) = self.in_prefix();
        (
            self.running_of_prefix,
            self.sockets_of_prefix,
            of_address,
            sockets_of_address,
            arrival,
        )
    }
}

/// Token buckets by prefix, the least recently used forgotten first. A bucket untouched for `burst / rate` seconds is full, and
/// a forgotten one begins full, so little is lost by forgetting.
struct Buckets {
    rate_per_second: u64,
    burst: u64,
    max: usize,
    buckets: BTreeMap<PrefixKey, Bucket>,
    /// The buckets by their last use.
    by_use: BTreeSet<(u64, PrefixKey)>,
    uses: u64,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// In billionths of a token, so that nothing is lost between two refills a nanosecond apart.
    nano_tokens: u64,
    refilled_at: Instant,
    used: u64,
}

const NANO: u64 = 1_000_000_000;

impl Buckets {
    fn new(limits: AdmissionLimits) -> Buckets {
        Buckets {
            rate_per_second: u64::from(limits.rate_per_second),
            burst: u64::from(limits.rate_burst) * NANO,
            max: limits.prefixes_max.max(1) as usize,
            buckets: BTreeMap::new(),
            by_use: BTreeSet::new(),
            uses: 0,
        }
    }

    /// Whole tokens that a prefix has.
    fn whole_tokens(&self, now: Instant, prefix: PrefixKey) -> u32 {
        let nano = self
            .buckets
            .get(&prefix)
            .map_or(self.burst, |bucket| self.refilled(bucket, now));
        (nano / NANO).min(u64::from(u32::MAX)) as u32
    }

    /// Takes one token of a prefix that has one.
    fn take(&mut self, now: Instant, prefix: PrefixKey) {
        let known = self.buckets.get(&prefix);
        let nano_tokens = known.map_or(self.burst, |bucket| self.refilled(bucket, now));
        // Cores read the clock apart: time that was refilled for once must not count again.
        let refilled_at = known.map_or(now, |bucket| bucket.refilled_at.max(now));
        self.uses += 1;
        let bucket = Bucket {
            nano_tokens: nano_tokens.saturating_sub(NANO),
            refilled_at,
            used: self.uses,
        };
        if let Some(old) = self.buckets.insert(prefix, bucket) {
            self.by_use.remove(&(old.used, prefix));
        }
        self.by_use.insert((self.uses, prefix));
        if self.buckets.len() > self.max
            && let Some((_, forgotten)) = self.by_use.pop_first()
        {
            self.buckets.remove(&forgotten);
        }
    }

    fn refilled(&self, bucket: &Bucket, now: Instant) -> u64 {
        // A rate of one token a second is one nano-token a nanosecond.
        let nanos = now.saturating_duration_since(bucket.refilled_at).as_nanos();
        let gained = nanos.saturating_mul(u128::from(self.rate_per_second));
        let gained = u64::try_from(gained).unwrap_or(u64::MAX);
        bucket.nano_tokens.saturating_add(gained).min(self.burst)
    }
}

#[cfg(test)]
#[path = "tests/admission.rs"]
mod tests;
