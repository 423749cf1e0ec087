//! The connected peers as the threads outside see them: who is there, and the way to each.
//!
//! It is the machine's own table behind a lock, because a second table of ids would cost as much again. The machine alone
//! changes who is in it. A [`Link`] is made when a thread or the connection first has something to say, and given up when it
//! has been quiet for a while: of thousands of peers nearly all are idle.

use std::net::SocketAddr;
use std::sync::Arc;

use mischief_reactor::{ActorId, Instant};
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::PeerId;
use super::message::{Direction, Introduction, PeerRecord, PeerRef, Traffic};
use super::table::Table;
use crate::connection::{Link, Links};
use crate::identity::PeerIdPrefix;

/// The connected peers of one node. Copies of it are the same roster.
#[derive(Debug)]
pub struct Roster<C>(Arc<RwLock<Table<C>>>);

impl<C> Clone for Roster<C> {
    fn clone(&self) -> Roster<C> {
        Roster(self.0.clone())
    }
}

impl<C: Copy + Ord> Default for Roster<C> {
    fn default() -> Roster<C> {
        Roster(Arc::new(RwLock::new(Table::new())))
    }
}

impl<C: Copy + Ord> Roster<C> {
    /// How many peers are connected.
    pub fn len(&self) -> usize {
        self.0.read().len() as usize
    }

    /// Whether nobody is connected.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a peer is connected.
    pub fn contains(&self, peer: &PeerId) -> bool {
        self.0.read().find(peer).is_some()
    }

    /// The connected peers, in the order of their ids.
    pub fn ids(&self) -> Vec<PeerId> {
        self.0.read().iter().map(|(_, id, _)| id).collect()
    }

    /// The first peer whose id begins so, and how many there are.
    pub fn matching(&self, prefix: &PeerIdPrefix) -> (Option<PeerId>, usize) {
        let table = self.0.read();
        let mut matching = table.iter().map(|(_, id, _)| id);
        let first = matching.by_ref().find(|id| prefix.matches(id));
        let others = matching.filter(|id| prefix.matches(id)).count();
        (first, usize::from(first.is_some()) + others)
    }
}

impl Roster<ActorId> {
    /// The way to a peer. `None`: it is not connected.
    pub fn link_to(&self, peer: &PeerId) -> Option<Arc<Link>> {
        self.link(|table| table.find(peer))
    }

    /// The ways to all connected peers, in the order of their ids.
    pub fn links(&self) -> Vec<Arc<Link>> {
        let mut table = self.0.write();
        let peers: Vec<PeerRef> = table.iter().map(|(peer, ..)| peer).collect();
        peers
            .into_iter()
            .filter_map(|peer| table.make_link(peer))
            .collect()
    }

    /// The link that is there, nearly always, or a new one.
    fn link(&self, find: impl Fn(&Table<ActorId>) -> Option<PeerRef>) -> Option<Arc<Link>> {
        let table = self.0.read();
        if let Some(link) = table.link(find(&table)?) {
            return Some(link.clone());
        }
        drop(table);
        let mut table = self.0.write();
        let peer = find(&table)?;
        table.make_link(peer)
    }
}

impl Links for Roster<ActorId> {
    fn open(&self, connection: ActorId) -> Option<Arc<Link>> {
        self.link(|table| table.find_connection(connection))
    }

    fn find(&self, connection: ActorId) -> Option<Arc<Link>> {
        self.0.read().link_of(connection).cloned()
    }

    fn close(&self, connection: ActorId) -> Option<Arc<Link>> {
        self.0.write().close(connection)
    }

    fn release(&self, link: Arc<Link>) -> Option<Arc<Link>> {
        let mut table = self.0.write();
        let peer = table.find_connection(link.connection());
        // The table's and the caller's are two; with the table locked nobody can come by a third.
        let is_unused = Arc::strong_count(&link) == 2 && link.is_idle();
        match peer.filter(|_| is_unused) {
            Some(peer) if table.drop_link(peer, &link) => None,
            _ => Some(link),
        }
    }

    fn set_message_max(&self, connection: ActorId, max: u32) {
        self.0.write().set_message_max(connection, max);
    }
}

/// The machine's hold on the roster. A copy of it, as of the whole machine, is a roster of its own.
#[derive(Debug)]
pub(super) struct Entries<C>(Roster<C>);

impl<C: Clone> Clone for Entries<C> {
    fn clone(&self) -> Entries<C> {
        let table = self.0.0.read().clone();
        Entries(Roster(Arc::new(RwLock::new(table))))
    }
}

impl<C: Copy + Ord> Entries<C> {
    pub(super) fn new(roster: Roster<C>) -> Entries<C> {
        Entries(roster)
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, Table<C>> {
        self.0.0.read()
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table<C>> {
        self.0.0.write()
    }

    pub(super) fn len(&self) -> u32 {
        self.read().len()
    }

    pub(super) fn inbound(&self) -> u32 {
        self.read().inbound()
    }

    pub(super) fn outbound(&self) -> u32 {
        self.read().outbound()
    }

    pub(super) fn insert(
        &mut self,
        now: Instant,
        connection: C,
        direction: Direction,
        introduction: Introduction,
    ) -> PeerRef {
        self.write()
            .insert(now, connection, direction, introduction)
    }

    pub(super) fn remove(&mut self, peer: PeerRef) -> Option<(PeerId, C)> {
        self.write().remove(peer)
    }

    pub(super) fn find(&self, id: &PeerId) -> Option<PeerRef> {
        self.read().find(id)
    }

    pub(super) fn find_connection(&self, connection: C) -> Option<PeerRef> {
        self.read().find_connection(connection)
    }

    pub(super) fn find_dialled(&self, addr: SocketAddr) -> Option<PeerRef> {
        self.read().find_dialled(addr)
    }

    pub(super) fn id(&self, peer: PeerRef) -> Option<PeerId> {
        self.read().id(peer)
    }

    pub(super) fn connection(&self, peer: PeerRef) -> Option<C> {
        self.read().connection(peer)
    }

    pub(super) fn record(&self, peer: PeerRef, traffic: Option<Traffic>) -> Option<PeerRecord> {
        self.read().record(peer, traffic)
    }

    /// All peers in the order of their ids, each with its connection.
    pub(super) fn list(&self) -> Vec<(PeerRef, PeerId, C)> {
        self.read().iter().collect()
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.read().heap_bytes()
    }
}
