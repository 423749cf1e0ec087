//! The connected peers, found by reference, by id and by connection.
//!
//! A peer takes one slot of 96 bytes and one entry of 4 bytes in each of two sorted indexes; vectors grow by an eighth,
//! so that a table of thousands stays within [`PEER_BYTES_MAX`] per peer. A name is extra. Inserting moves up to 4 bytes per
//! peer, 40 KiB in a table of 10,000: cheaper than the handshake before it by three orders of magnitude, and in exchange there
//! is no hash to attack and no order that differs from run to run.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::num::NonZeroU32;
use std::sync::Arc;

use mischief_reactor::{ActorId, Instant};

use super::PeerId;
use super::message::{Direction, Introduction, PeerRecord, PeerRef, Traffic};
use crate::connection::{Link, Suite};

/// Bytes of the table per connected peer in a full table, without its name.
pub const PEER_BYTES_MAX: usize = 120;

/// The peers that are connected. See the module's text.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(Hash))]
pub(super) struct Table<C> {
    slots: Vec<Slot<C>>,
    /// Slots without a peer.
    vacant: Vec<u32>,
    /// Slots in the order of their peers' ids.
    by_id: Vec<u32>,
    /// Slots in the order of their connections.
    by_connection: Vec<u32>,
    inbound: u32,
    /// Links of connections that are no peers' any more and that have still to take what was sent.
    parting: BTreeMap<C, Way>,
}

#[derive(Clone, Debug)]
#[cfg_attr(test, derive(Hash))]
struct Slot<C> {
    id: PeerId,
    addr: CompactAddr,
    connection: C,
    since: Instant,
    /// Few peers have one, so that it is one word here and takes a second allocation.
    name: Option<Box<Name>>,
    /// For the threads outside, while there is something to say.
    link: Option<Way>,
    /// The largest body that the peer takes; `None` once its connection takes nothing more.
    message_max: Option<NonZeroU32>,
    /// Odd while the slot is taken.
    generation: u32,
    direction: Direction,
    suite: Suite,
}

/// One peer's place in the network.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) peer: PeerRef,
    pub(super) id: PeerId,
    pub(super) addr: SocketAddr,
    pub(super) direction: Direction,
    pub(super) since: Instant,
}

#[derive(Clone, Debug)]
#[cfg_attr(test, derive(Hash))]
struct Name(Box<str>);

#[derive(Clone, Debug)]
struct Way(Arc<Link>);

/// What is on its way to a peer decides nothing about who is connected.
#[cfg(test)]
impl std::hash::Hash for Way {
    fn hash<H: std::hash::Hasher>(&self, _: &mut H) {}
}

impl<C> Slot<C> {
    fn is_taken(&self) -> bool {
        self.generation % 2 == 1
    }
}

/// A socket address in 22 bytes instead of 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
struct CompactAddr {
    /// IPv4 in its v4-mapped form.
    ip: [u8; 16],
    scope: [u8; 4],
    port: u16,
}

impl From<SocketAddr> for CompactAddr {
    fn from(addr: SocketAddr) -> CompactAddr {
        let (ip, scope) = match addr {
            SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), 0),
            SocketAddr::V6(v6) => (*v6.ip(), v6.scope_id()),
        };
        CompactAddr {
            ip: ip.octets(),
            scope: scope.to_ne_bytes(),
            port: addr.port(),
        }
    }
}

impl From<CompactAddr> for SocketAddr {
    fn from(addr: CompactAddr) -> SocketAddr {
        let ip = Ipv6Addr::from(addr.ip);
        match IpAddr::V6(ip).to_canonical() {
            IpAddr::V4(v4) => (v4, addr.port).into(),
            IpAddr::V6(ip) => {
                SocketAddrV6::new(ip, addr.port, 0, u32::from_ne_bytes(addr.scope)).into()
            }
        }
    }
}

impl<C: Copy + Ord> Table<C> {
    pub(super) fn new() -> Table<C> {
        Table {
            slots: Vec::new(),
            vacant: Vec::new(),
            by_id: Vec::new(),
            by_connection: Vec::new(),
            inbound: 0,
            parting: BTreeMap::new(),
        }
    }

    pub(super) fn len(&self) -> u32 {
        self.by_id.len() as u32
    }

    pub(super) fn inbound(&self) -> u32 {
        self.inbound
    }

    pub(super) fn outbound(&self) -> u32 {
        self.len() - self.inbound
    }

    /// Enters a peer that is in the table neither by its id nor by its connection.
    pub(super) fn insert(
        &mut self,
        now: Instant,
        connection: C,
        direction: Direction,
        introduction: Introduction,
    ) -> PeerRef {
        let id = introduction.peer;
        let id_at = self.position_of(&id).expect_err("a peer is entered once");
        let connection_at = self
            .position_of_connection(connection)
            .expect_err("a connection has one peer");
        let index = self.take_slot(Slot {
            id,
            addr: introduction.addr.into(),
            connection,
            since: now,
            name: introduction.name.map(|name| Box::new(Name(name))),
            link: None,
            message_max: at_least_one(introduction.message_max),
            generation: 1,
            direction,
            suite: introduction.suite,
        });
        reserve(&mut self.by_id);
        self.by_id.insert(id_at, index);
        reserve(&mut self.by_connection);
        self.by_connection.insert(connection_at, index);
        self.inbound += u32::from(direction == Direction::Inbound);
        PeerRef {
            index,
            generation: self.slots[index as usize].generation,
        }
    }

    /// Takes a peer out. Its reference is void from now on.
    pub(super) fn remove(&mut self, peer: PeerRef) -> Option<(PeerId, C)> {
        let slot = self.slot(peer)?;
        let (id, connection, direction) = (slot.id, slot.connection, slot.direction);
        let id_at = self
            .position_of(&id)
            .expect("every taken slot is in the index of ids");
        let connection_at = self
            .position_of_connection(connection)
            .expect("every taken slot is in the index of connections");
        self.by_id.remove(id_at);
        self.by_connection.remove(connection_at);
        let slot = &mut self.slots[peer.index as usize];
        slot.name = None;
        slot.generation = slot.generation.wrapping_add(1);
        if let Some(way) = slot.link.take() {
            way.0.mute();
            if slot.message_max.is_some() {
                self.parting.insert(connection, way);
            }
        }
        self.vacant.push(peer.index);
        self.inbound -= u32::from(direction == Direction::Inbound);
        Some((id, connection))
    }

    pub(super) fn find(&self, id: &PeerId) -> Option<PeerRef> {
        self.position_of(id)
            .ok()
            .map(|at| self.peer_ref(self.by_id[at]))
    }

    pub(super) fn find_connection(&self, connection: C) -> Option<PeerRef> {
        self.position_of_connection(connection)
            .ok()
            .map(|at| self.peer_ref(self.by_connection[at]))
    }

    /// The peer that we dialled at this address. A scan: used when a user asks to connect.
    pub(super) fn find_dialled(&self, addr: SocketAddr) -> Option<PeerRef> {
        let addr = CompactAddr::from(addr);
        let is_there = |slot: &Slot<C>| {
            slot.is_taken() && slot.direction == Direction::Outbound && slot.addr == addr
        };
        let index = self.slots.iter().position(is_there)?;
        Some(self.peer_ref(index as u32))
    }

    pub(super) fn id(&self, peer: PeerRef) -> Option<PeerId> {
        self.slot(peer).map(|slot| slot.id)
    }

    pub(super) fn connection(&self, peer: PeerRef) -> Option<C> {
        self.slot(peer).map(|slot| slot.connection)
    }

    pub(super) fn record(&self, peer: PeerRef, traffic: Option<Traffic>) -> Option<PeerRecord> {
        let slot = self.slot(peer)?;
        Some(PeerRecord {
            peer,
            id: slot.id,
            name: slot.name.as_ref().map(|name| name.0.clone()),
            addr: slot.addr.into(),
            direction: slot.direction,
            suite: slot.suite,
            since: slot.since,
            traffic,
        })
    }

    /// All peers in the order of their ids, each with its connection.
    pub(super) fn iter(&self) -> impl Iterator<Item = (PeerRef, PeerId, C)> + '_ {
        self.by_id.iter().map(|&index| {
            let slot = &self.slots[index as usize];
            (self.peer_ref(index), slot.id, slot.connection)
        })
    }

    /// Where and since when all peers are connected, in the order of their ids.
    pub(super) fn places(&self) -> impl Iterator<Item = Place> + '_ {
        self.by_id.iter().map(|&index| {
            let slot = &self.slots[index as usize];
            Place {
                peer: self.peer_ref(index),
                id: slot.id,
                addr: slot.addr.into(),
                direction: slot.direction,
                since: slot.since,
            }
        })
    }

    /// Bytes on the heap, names included.
    pub(super) fn heap_bytes(&self) -> usize {
        let names: usize = self
            .slots
            .iter()
            .filter_map(|slot| slot.name.as_deref())
            .map(|name| size_of::<Name>() + name.0.len())
            .sum();
        let indexes =
            self.vacant.capacity() + self.by_id.capacity() + self.by_connection.capacity();
        self.slots.capacity() * size_of::<Slot<C>>() + indexes * size_of::<u32>() + names
    }

    fn slot(&self, peer: PeerRef) -> Option<&Slot<C>> {
        self.slots
            .get(peer.index as usize)
            .filter(|slot| slot.is_taken() && slot.generation == peer.generation)
    }

    fn peer_ref(&self, index: u32) -> PeerRef {
        PeerRef {
            index,
            generation: self.slots[index as usize].generation,
        }
    }

    fn take_slot(&mut self, slot: Slot<C>) -> u32 {
        match self.vacant.pop() {
            Some(index) => {
                let vacant = &mut self.slots[index as usize];
                *vacant = Slot {
                    generation: vacant.generation.wrapping_add(1),
                    ..slot
                };
                index
            }
            None => {
                reserve(&mut self.slots);
                self.slots.push(slot);
                self.slots.len() as u32 - 1
            }
        }
    }

    fn position_of(&self, id: &PeerId) -> Result<usize, usize> {
        self.by_id
            .binary_search_by(|&index| self.slots[index as usize].id.cmp(id))
    }

    fn position_of_connection(&self, connection: C) -> Result<usize, usize> {
        self.by_connection
            .binary_search_by(|&index| self.slots[index as usize].connection.cmp(&connection))
    }
}

/// The links between peers' connections and the threads outside.
impl Table<ActorId> {
    /// The link of a peer, if there is one.
    pub(super) fn link(&self, peer: PeerRef) -> Option<&Arc<Link>> {
        self.slot(peer)?.link.as_ref().map(|way| &way.0)
    }

    /// The link of a peer, made if there is none. `None`: its connection takes nothing more.
    pub(super) fn make_link(&mut self, peer: PeerRef) -> Option<Arc<Link>> {
        let slot = self.slot_mut(peer)?;
        if slot.link.is_none() {
            let max = slot.message_max?.get();
            slot.link = Some(Way(Link::new(slot.id, slot.connection, max)));
        }
        slot.link.as_ref().map(|way| way.0.clone())
    }

    /// Forgets a peer's link if it is this one.
    pub(super) fn drop_link(&mut self, peer: PeerRef, link: &Arc<Link>) -> bool {
        let is_it = |way: &mut Way| Arc::ptr_eq(&way.0, link);
        let slot = self.slot_mut(peer);
        slot.and_then(|slot| slot.link.take_if(is_it)).is_some()
    }

    /// The link of a connection, if there is one, also when it is no peer's any more.
    pub(super) fn link_of(&self, connection: ActorId) -> Option<&Arc<Link>> {
        match self.find_connection(connection) {
            Some(peer) => self.link(peer),
            None => self.parting.get(&connection).map(|way| &way.0),
        }
    }

    /// A connection takes nothing more: no link is made for it from now on. The one it has, if it has one.
    pub(super) fn close(&mut self, connection: ActorId) -> Option<Arc<Link>> {
        let Some(peer) = self.find_connection(connection) else {
            return self.parting.remove(&connection).map(|way| way.0);
        };
        self.slot_mut(peer)?.message_max = None;
        self.link(peer).cloned()
    }

    /// Sets the largest body that the peer of a connection takes.
    pub(super) fn set_message_max(&mut self, connection: ActorId, max: u32) {
        let peer = self.find_connection(connection);
        let slot = peer.and_then(|peer| self.slot_mut(peer));
        if let Some(slot) = slot.filter(|slot| slot.message_max.is_some()) {
            slot.message_max = at_least_one(max);
        }
        if let Some(link) = self.link_of(connection) {
            link.set_message_max(max);
        }
    }

    fn slot_mut(&mut self, peer: PeerRef) -> Option<&mut Slot<ActorId>> {
        self.slot(peer)?;
        self.slots.get_mut(peer.index as usize)
    }
}

/// A peer that takes no body takes empty ones.
fn at_least_one(max: u32) -> Option<NonZeroU32> {
    NonZeroU32::new(max.max(1))
}

/// Makes room for one more by growing an eighth instead of doubling.
fn reserve<T>(vec: &mut Vec<T>) {
    if vec.len() == vec.capacity() {
        vec.reserve_exact((vec.len() / 8).max(4));
    }
}

#[cfg(test)]
#[path = "tests/table.rs"]
mod tests;
