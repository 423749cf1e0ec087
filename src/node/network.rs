//! What keeps a node connected, from its user's side: lost peers, bans, protected peers, the address book.

use std::sync::{Arc, Weak};
use std::time::Duration;

use mischief_actors::identity::PeerId;
use mischief_actors::peers::actor::{Done, PeersMessage, Shelf, Upkeep, UpkeepError};
use mischief_actors::peers::{
    AllowList, BookEntry, FILE_BYTES_MAX, FileKind, ReconnectPolicy, Stored, Target, Waiting,
};
use mischief_reactor::Reply;
use mischief_reactor::io::driver::Disk;
use parking_lot::Mutex;

use super::builder::NodeBuilder;
use super::error::NodeError;
use super::info::PeerInfo;
use super::launch::ANSWER_DEADLINE;
use super::{Node, Pending};
use crate::data_dir::{DataDir, read_file};

/// Peers that a node with exchange dials by itself, if it has fewer.
const OUTBOUND_TARGET: u32 = 8;

/// What a [`NodeBuilder`] was told about it.
#[derive(Clone, Debug, Default)]
pub(crate) struct NetworkOptions {
    pub(crate) reconnect: ReconnectPolicy,
    pub(crate) allowed: AllowList,
    pub(crate) denied: Vec<Target>,
    pub(crate) exchange: bool,
    pub(crate) outbound_target: Option<u32>,
    pub(crate) max_outbound: Option<u32>,
}

impl NetworkOptions {
    pub(crate) fn outbound_target(&self) -> u32 {
        let usual = if self.exchange { OUTBOUND_TARGET } else { 0 };
        self.outbound_target.unwrap_or(usual)
    }
}

impl NodeBuilder {
    /// At most this many peers that this node has dialled.
    pub fn max_outbound(mut self, max: u32) -> NodeBuilder {
        self.network().max_outbound = Some(max);
        self
    }

    /// How lost peers are dialled again. Without this after up to five seconds, and then ever more slowly for a day;
    /// [`ReconnectPolicy::off`] leaves that to the program.
    pub fn reconnect(mut self, policy: ReconnectPolicy) -> NodeBuilder {
        self.network().reconnect = policy;
        self
    }

    /// Whether the node asks its peers for others and tells them of those that it has met, and dials some of them. Off
    /// without this. What a peer tells is signed by whom it tells of.
    pub fn exchange(mut self, is_on: bool) -> NodeBuilder {
        self.network().exchange = is_on;
        self
    }

    /// Peers that the node dials by itself, out of its address book, while it has dialled fewer. Without this 8 with
    /// [`NodeBuilder::exchange`], and otherwise none.
    pub fn outbound_target(mut self, peers: u32) -> NodeBuilder {
        self.network().outbound_target = Some(peers);
        self
    }

    /// Lets only peers connect that are allowed: of all peers that are named, and of all ranges that are named. May be called
    /// several times.
    pub fn allow(mut self, target: Target) -> NodeBuilder {
        let allowed = &mut self.network().allowed;
        match target {
            Target::Peer(peer) => drop(allowed.peers.insert(peer)),
            Target::Subnet(subnet) => drop(allowed.subnets.insert(subnet)),
        }
        self
    }

    /// Bans a peer or a range from the start, until it is unbanned.
    pub fn deny(mut self, target: Target) -> NodeBuilder {
        self.network().denied.push(target);
        self
    }
}

impl Node {
    /// Everything about one connected peer: [`Node::peer`] under the name of the command `peer`.
    pub fn peer_info(&self, peer: &PeerId) -> Pending<PeerInfo, NodeError> {
        self.peer(peer)
    }

    /// Has a peer never be disconnected to make room for another, get a place when there is none, and never be given up
    /// when it is lost. It need not be connected. Done when it will be so after a crash, too.
    pub fn protect(&self, peer: &PeerId) -> Pending<(), NodeError> {
        self.change(|done| Upkeep::Protect(*peer, true, done))
    }

    /// Treats a peer like all others again.
    pub fn unprotect(&self, peer: &PeerId) -> Pending<(), NodeError> {
        self.change(|done| Upkeep::Protect(*peer, false, done))
    }

    /// Bans a peer, or all at some addresses, for a while or until [`Node::unban`]: whoever it concerns is disconnected,
    /// refused and not dialled. Done when it will be so after a crash, too.
    pub fn ban(&self, target: Target, lasts: Option<Duration>) -> Pending<(), NodeError> {
        self.change(|done| Upkeep::Ban(target, lasts, done))
    }

    /// Lifts a ban. [`UpkeepError::Unknown`] if there is none of exactly this peer or range.
    pub fn unban(&self, target: Target) -> Pending<(), NodeError> {
        self.change(|done| Upkeep::Unban(target, done))
    }

    /// Who is banned and for how long; `None` stands for a ban without end.
    pub fn bans(&self) -> Pending<Vec<(Target, Option<Duration>)>, NodeError> {
        self.upkeep(|reply| Upkeep::Bans(reply.map(Ok)))
    }

    /// The lost peers that will be dialled again, soonest first.
    pub fn reconnect_queue(&self) -> Pending<Vec<Waiting>, NodeError> {
        self.upkeep(|reply| Upkeep::Queue(reply.map(Ok)))
    }

    /// Dials none of the lost peers any more. How many there were.
    pub fn clear_reconnect_queue(&self) -> Pending<usize, NodeError> {
        self.upkeep(|reply| Upkeep::ClearQueue(reply.map(Ok)))
    }

    /// All peers that the node knows: those it has met, and those it was told of.
    pub fn address_book(&self) -> Pending<Vec<BookEntry>, NodeError> {
        self.upkeep(|reply| Upkeep::Book(reply.map(Ok)))
    }

    /// Forgets a peer: its entry in the address book, that it is waited for or protected. Bans stay, and so does its
    /// connection. [`UpkeepError::Unknown`] if nothing is known of it.
    pub fn forget(&self, peer: &PeerId) -> Pending<(), NodeError> {
        self.change(|done| Upkeep::Forget(*peer, done))
    }

    fn change(&self, question: impl FnOnce(Done) -> Upkeep) -> Pending<(), NodeError> {
        let into_node_error = |result: Result<(), UpkeepError>| result.map_err(NodeError::from);
        self.upkeep(|reply: Reply<Result<(), NodeError>>| question(reply.map(into_node_error)))
    }

    fn upkeep<T: Send + 'static>(
        &self,
        question: impl FnOnce(Reply<Result<T, NodeError>>) -> Upkeep,
    ) -> Pending<T, NodeError> {
        let Some(peers) = self.backend().peers() else {
            return Pending::known(self.hub(), Err(NodeError::Stopped));
        };
        let message = |reply| PeersMessage::Upkeep(Box::new(question(reply)));
        let answer = self.hub().handle.ask(&peers, message, ANSWER_DEADLINE);
        Pending::asked(self.hub(), answer)
    }
}

impl From<UpkeepError> for NodeError {
    fn from(error: UpkeepError) -> NodeError {
        NodeError::Upkeep(error)
    }
}

/// A data directory that the node holds, and to which its peers' files are written.
pub(crate) type SharedDataDir = Arc<Mutex<DataDir>>;

pub(crate) fn share(directory: DataDir) -> SharedDataDir {
    Arc::new(Mutex::new(directory))
}

/// The files of the peers in a data directory, for as long as the node holds it.
pub(crate) struct DataShelf(pub(crate) Weak<Mutex<DataDir>>);

impl Shelf for DataShelf {
    fn replace(&self, name: &str, bytes: &[u8]) -> std::io::Result<()> {
        let Some(directory) = self.0.upgrade() else {
            return Err(std::io::Error::other("the node has stopped"));
        };
        directory.lock().replace(name, bytes, true)
    }
}

/// What an earlier run has kept. A file that cannot be read is set aside, and the node starts without it.
pub(crate) fn load(directory: &SharedDataDir) -> Box<Stored> {
    let directory = directory.lock();
    let read = |kind: FileKind| {
        let path = directory.file(kind.file_name());
        match read_file(&**directory.disk(), &path, FILE_BYTES_MAX) {
            Ok(None) => Stored::default(),
            Ok(Some(bytes)) => Stored::decode(&bytes, kind).unwrap_or_else(|error| {
                set_aside(&**directory.disk(), &path, &error.to_string());
                Stored::default()
            }),
            Err(error) => {
                log::warn!("{path} cannot be read ({error}); the node starts without it");
                Stored::default()
            }
        }
    };
    let (current, ever) = (read(FileKind::Current), read(FileKind::Ever));
    Box::new(Stored {
        current: current.current,
        ..ever
    })
}

fn set_aside(disk: &dyn Disk, path: &str, why: &str) {
    let aside = format!("{path}.damaged");
    match disk.rename(path, &aside) {
        Ok(()) => {
            log::warn!("{path} was set aside as {aside}, because {why}; the node starts without it")
        }
        Err(error) => {
            log::warn!("{path} is not used, because {why}; it could not be set aside: {error}")
        }
    }
}
