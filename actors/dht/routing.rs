//! The routing table of one family: nodes that have answered us, more of them the nearer they are to our own id.
//!
//! Nobody comes in by hearsay: a node enters when it has answered a query that we chose to send. So whoever wants many places
//! needs many addresses that answer; and one owner (a /24 or a /64, see [`Prefix`]) has one place.

use std::net::SocketAddr;
use std::time::Duration;

use mischief_reactor::Instant;

use super::address::{Contact, Prefix};
use super::node_id::{ID_BYTES, NodeId};

/// Nodes in a bucket, and in an answer: the `k` of Kademlia (BEP 5).
pub const BUCKET_SIZE: usize = 8;

/// The buckets that cover most of the space hold more, as libtorrent's do: lookups begin nearer to their targets.
const BUCKET_SIZES: [usize; 4] = [128, 64, 32, 16];

/// Nodes that wait for a place in each bucket.
pub const REPLACEMENTS_MAX: usize = 8;

/// A node that has been heard of within this time is good (BEP 5, "Routing Table").
pub const GOOD_FOR: Duration = Duration::from_secs(15 * 60);

/// So many unanswered queries in a row make a node bad: it is no longer named to others, and the first replacement takes
/// its place.
pub const FAILURES_BAD: u8 = 2;

/// After so many a node goes even if nobody waits for its place. Many, because all fail when our own network is down.
pub const FAILURES_MAX: u8 = 20;

/// What a node is worth (BEP 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It answered lately, or it asked us lately and has answered before.
    Good,
    /// It has been silent for a while.
    Questionable,
    /// It did not answer several times in a row.
    Bad,
}

#[derive(Clone, Debug)]
struct Entry {
    contact: Contact,
    /// When it last answered.
    answered: Instant,
    /// When it last answered or asked.
    heard: Instant,
    failures: u8,
    /// Its id fits its address (BEP 42).
    is_valid: bool,
}

impl Entry {
    fn standing(&self, now: Instant) -> Standing {
        if self.failures >= FAILURES_BAD {
            Standing::Bad
        } else if now.saturating_duration_since(self.heard) < GOOD_FOR {
            Standing::Good
        } else {
            Standing::Questionable
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Bucket {
    live: Vec<Entry>,
    spare: Vec<Entry>,
}

/// The table.
#[derive(Debug)]
pub struct RoutingTable {
    own: NodeId,
    prefers_valid: bool,
    /// Bucket `i` holds the nodes that share exactly `i` first bits with us; the last one all that share more.
    buckets: Vec<Bucket>,
}

impl RoutingTable {
    /// An empty table around our own id. With `prefers_valid` a node whose id fits its address takes the place of one whose
    /// id does not (BEP 42).
    pub fn new(own: NodeId, prefers_valid: bool) -> RoutingTable {
        RoutingTable {
            own,
            prefers_valid,
            buckets: vec![Bucket::default()],
        }
    }

    /// Our own id.
    pub fn own(&self) -> NodeId {
        self.own
    }

    /// Sorts everybody anew around another id.
    pub fn set_own(&mut self, own: NodeId) {
        let buckets = std::mem::replace(&mut self.buckets, vec![Bucket::default()]);
        self.own = own;
        let (live, spare): (Vec<_>, Vec<_>) = buckets
            .into_iter()
            .map(|bucket| (bucket.live, bucket.spare))
            .unzip();
        for entry in live.into_iter().chain(spare).flatten() {
            self.insert(entry);
        }
    }

    /// Nodes with a place.
    pub fn len(&self) -> usize {
        self.buckets.iter().map(|bucket| bucket.live.len()).sum()
    }

    /// Whether nobody has a place.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Nodes that wait for a place.
    pub fn replacements(&self) -> usize {
        self.buckets.iter().map(|bucket| bucket.spare.len()).sum()
    }

    /// How many nodes with a place have this standing.
    pub fn count(&self, now: Instant, standing: Standing) -> usize {
        self.live()
            .filter(|entry| entry.standing(now) == standing)
            .count()
    }

    /// All nodes with a place, nearest bucket last.
    pub fn contacts(&self) -> impl Iterator<Item = Contact> + '_ {
        self.live().map(|entry| entry.contact)
    }

    /// The nodes with a place and their standing.
    pub fn standings(&self, now: Instant) -> impl Iterator<Item = (Contact, Standing)> + '_ {
        self.live()
            .map(move |entry| (entry.contact, entry.standing(now)))
    }

    fn live(&self) -> impl Iterator<Item = &Entry> {
        self.buckets.iter().flat_map(|bucket| &bucket.live)
    }

    fn entries_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.buckets
            .iter_mut()
            .flat_map(|bucket| bucket.live.iter_mut().chain(&mut bucket.spare))
    }

    /// A node has answered a query of ours: it may have a place.
    pub fn handle_answer(&mut self, now: Instant, contact: Contact) {
        if contact.id == self.own {
            return;
        }
        let known = self
            .entries_mut()
            .find(|entry| entry.contact.addr == contact.addr);
        if let Some(known) = known {
            let is_same = known.contact.id == contact.id;
            if is_same {
                known.answered = now;
                known.heard = now;
                known.failures = 0;
                return;
            }
            // Whoever changes its id at one address is looking for a good place: it loses the one it has. But who has
            // learned its own address and now has an id that fits it does what it should.
            let is_renewal = !known.is_valid && contact.id.is_valid_for(contact.addr.ip());
            self.remove(contact.addr);
            if !is_renewal {
                return;
            }
        }
        let prefix = Prefix::of(contact.addr);
        let rival = self.entries_mut().find(|entry| {
            entry.contact.id == contact.id || Prefix::of(entry.contact.addr) == prefix
        });
        if let Some(rival) = rival {
            if rival.failures < FAILURES_BAD {
                return;
            }
            let addr = rival.contact.addr;
            self.remove(addr);
        }
        self.insert(Entry {
            contact,
            answered: now,
            heard: now,
            failures: 0,
            is_valid: contact.id.is_valid_for(contact.addr.ip()),
        });
    }

    /// A node has asked us something. Whether it is worth a ping: it is unknown and would get a place.
    pub fn handle_query(&mut self, now: Instant, contact: Contact) -> bool {
        let (own, prefers_valid) = (self.own, self.prefers_valid);
        if contact.id == own {
            return false;
        }
        let prefix = Prefix::of(contact.addr);
        for entry in self.entries_mut() {
            if entry.contact == contact {
                entry.heard = now;
                return false;
            }
            if entry.contact.addr == contact.addr {
                return !entry.is_valid && contact.id.is_valid_for(contact.addr.ip());
            }
            if entry.contact.id == contact.id || Prefix::of(entry.contact.addr) == prefix {
                return false;
            }
        }
        let index = self.bucket_of(&contact.id);
        let bucket = &self.buckets[index];
        let is_last = index + 1 == self.buckets.len() && index + 1 < ID_BYTES * 8;
        bucket.live.len() < capacity(index)
            || is_last
            || bucket
                .live
                .iter()
                .any(|entry| entry.failures >= FAILURES_BAD)
            || prefers_valid
                && contact.id.is_valid_for(contact.addr.ip())
                && bucket.live.iter().any(|entry| !entry.is_valid)
    }

    /// A node did not answer.
    pub fn handle_failure(&mut self, addr: SocketAddr) {
        for bucket in &mut self.buckets {
            bucket.spare.retain(|entry| entry.contact.addr != addr);
            let Some(at) = bucket
                .live
                .iter()
                .position(|entry| entry.contact.addr == addr)
            else {
                continue;
            };
            let entry = &mut bucket.live[at];
            entry.failures = entry.failures.saturating_add(1);
            // It is the next to be asked again.
            entry.answered = Instant::ZERO;
            if entry.failures >= FAILURES_BAD
                && let Some(spare) = bucket.spare.pop()
            {
                bucket.live[at] = spare;
            } else if entry.failures >= FAILURES_MAX {
                bucket.live.remove(at);
            }
            return;
        }
    }

    /// Forgets a node.
    pub fn remove(&mut self, addr: SocketAddr) {
        for bucket in &mut self.buckets {
            bucket.spare.retain(|entry| entry.contact.addr != addr);
            if let Some(at) = bucket
                .live
                .iter()
                .position(|entry| entry.contact.addr == addr)
            {
                bucket.live.remove(at);
                bucket.live.extend(bucket.spare.pop());
            }
        }
    }

    /// Nobody is known to be there any more: after a sleep, or in another network.
    pub fn doubt_all(&mut self) {
        for entry in self.entries_mut() {
            entry.answered = Instant::ZERO;
            entry.heard = Instant::ZERO;
        }
    }

    /// The nodes nearest to a target that are not bad, nearest first; those whose ids do not fit their addresses come after all
    /// others. With `good_only` none that has failed or been silent
    /// for long: these are the ones to name to others.
    pub fn closest(
        &self,
        now: Instant,
        target: &NodeId,
        count: usize,
        good_only: bool,
    ) -> Vec<Contact> {
        let mut near: Vec<_> = self
            .live()
            .filter(|entry| match entry.standing(now) {
                Standing::Good => entry.failures == 0 || !good_only,
                Standing::Questionable => !good_only,
                Standing::Bad => false,
            })
            .map(|entry| {
                // Otherwise ids that were chosen to be near would push everybody else out of every answer (BEP 42).
                let is_doubtful = self.prefers_valid && !entry.is_valid;
                (
                    is_doubtful,
                    entry.contact.id.distance(target),
                    entry.contact,
                )
            })
            .collect();
        if near.len() > count {
            near.select_nth_unstable(count);
            near.truncate(count);
        }
        near.sort_unstable();
        near.into_iter().map(|(_, _, contact)| contact).collect()
    }

    /// The node that has not answered for longest, if that is at least `age`, and whether its bucket has room for more.
    pub fn stalest(&self, now: Instant, age: Duration) -> Option<(Contact, bool)> {
        let buckets = self.buckets.iter().enumerate();
        let entries = buckets.flat_map(|(index, bucket)| {
            let has_room = bucket.live.len() < capacity(index).min(BUCKET_SIZE);
            bucket.live.iter().map(move |entry| (entry, has_room))
        });
        let (entry, has_room) = entries.min_by_key(|(entry, _)| entry.answered)?;
        (now.saturating_duration_since(entry.answered) >= age).then_some((entry.contact, has_room))
    }

    /// A query to this node is on its way: it is not the stalest any more.
    pub fn touch(&mut self, now: Instant, addr: SocketAddr) {
        if let Some(entry) = self.entries_mut().find(|entry| entry.contact.addr == addr) {
            entry.answered = now;
        }
    }

    /// How many buckets there are: our own bits are shared by nodes of the last one.
    pub fn depth(&self) -> usize {
        self.buckets.len()
    }

    /// Bytes of memory beside the value itself.
    pub fn heap_bytes(&self) -> usize {
        let entries: usize = self
            .buckets
            .iter()
            .map(|bucket| bucket.live.capacity() + bucket.spare.capacity())
            .sum();
        entries * size_of::<Entry>() + self.buckets.capacity() * size_of::<Bucket>()
    }

    fn bucket_of(&self, id: &NodeId) -> usize {
        self.own.common_bits(id).min(self.buckets.len() - 1)
    }

    fn insert(&mut self, entry: Entry) {
        loop {
            let index = self.bucket_of(&entry.contact.id);
            let is_last = index + 1 == self.buckets.len() && index + 1 < ID_BYTES * 8;
            let bucket = &mut self.buckets[index];
            if bucket.live.len() < capacity(index) {
                return bucket.live.push(entry);
            }
            if let Some(bad) = bucket
                .live
                .iter_mut()
                .find(|other| other.failures >= FAILURES_BAD)
            {
                *bad = entry;
                return;
            }
            if is_last {
                self.split();
                continue;
            }
            if self.prefers_valid
                && entry.is_valid
                && let Some(invalid) = bucket.live.iter_mut().find(|other| !other.is_valid)
            {
                *invalid = entry;
                return;
            }
            if bucket.spare.len() == REPLACEMENTS_MAX {
                bucket.spare.remove(0);
            }
            return bucket.spare.push(entry);
        }
    }

    /// Parts the last bucket in two.
    fn split(&mut self) {
        let bucket = self
            .buckets
            .last_mut()
            .map(std::mem::take)
            .unwrap_or_default();
        self.buckets.push(Bucket::default());
        for entry in bucket.live.into_iter().chain(bucket.spare) {
            self.insert(entry);
        }
    }
}

/// How many nodes bucket `index` holds.
pub fn capacity(index: usize) -> usize {
    BUCKET_SIZES.get(index).copied().unwrap_or(BUCKET_SIZE)
}
